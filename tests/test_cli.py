"""The contract that every verb of the command line keeps."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import zoonnx as dispatcher
from tests.conftest import ROOT, Zoonnx

HEAVY = {"torch", "torchvision", "timm", "onnx", "onnxruntime", "grpc", "sklearn", "accelerate", "numpy"}


@pytest.mark.parametrize("verb", dispatcher.VERBS)
def test_help_has_an_example(zoonnx: Zoonnx, verb: str) -> None:
    """`zoonnx VERB --help` explains the verb and gives a command that can be copied."""
    done = zoonnx(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Example: zoonnx {verb}" in done.stdout


@pytest.mark.parametrize("verb", dispatcher.VERBS)
def test_help_is_quick(verb: str) -> None:
    """Help imports none of the large packages."""
    code = (
        "import sys, zoonnx\n"
        f"try: zoonnx.main(['{verb}', '--help'])\n"
        "except SystemExit: pass\n"
        f"sys.exit(str(sorted(set(sys.modules) & {HEAVY})) if set(sys.modules) & {HEAVY} else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_overview_lists_every_verb(zoonnx: Zoonnx, arguments: tuple[str, ...]) -> None:
    """Without a verb, the command lists all verbs."""
    done = zoonnx(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"  {verb} " in done.stdout for verb in dispatcher.VERBS)


def test_unknown_verb(zoonnx: Zoonnx) -> None:
    """The error for a mistyped verb suggests the closest one."""
    done = zoonnx("exprot")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "zoonnx exprot: there is no such verb; did you mean 'export'?\n"


def test_version(zoonnx: Zoonnx) -> None:
    """`--version` prints the version of the installed distribution."""
    from importlib.metadata import version

    assert zoonnx("--version").stdout == f"zoonnx {version('zoonnx')}\n"


def test_missing_extra(tmp_path: Path) -> None:
    """If a package that a verb needs is missing, the error names the extra that installs it, with exit status 2."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': raise ModuleNotFoundError('no torch', name='torch')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import zoonnx\n"
        f"zoonnx.main(['export', 'convnet4', '--to', {str(tmp_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "zoonnx export: the package 'torch' is not installed; run: pip install 'zoonnx[export]'\n"


def test_output_that_cannot_be_written() -> None:
    """If stdout is on a full disk, the error is one sentence without a traceback."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "zoonnx", "train", "--help"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "zoonnx train: No space left on device.\n")


def test_a_folder_that_was_removed(tmp_path: Path) -> None:
    """The error states the cause; PyTorch cannot be imported there and would end the process without it."""
    code = f"import os, zoonnx; os.rmdir({str(tmp_path)!r}); zoonnx.main(['models'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    expected = "zoonnx models: the current folder no longer exists: change to another one.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_a_closed_stderr() -> None:
    """The exit status of a mistake is the same with stderr closed."""
    code = "import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, '-m', 'zoonnx', 'exprot'])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 2


@pytest.mark.parametrize("package", dispatcher.OUR_PACKAGES)
def test_a_module_that_hides_one_of_ours(tmp_path: Path, package: str) -> None:
    """The command and the Python API name the file that hides a package."""
    hiding = tmp_path / f"{package}.py"
    hiding.write_text("")
    message = f"{hiding} hides zoonnx's own package '{package}': rename that file, or run from another folder."
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments, end in ((("-m", "zoonnx", "models"), 2), (("-c", "import zoonnx; zoonnx.Client"), 1)):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, message in done.stderr) == (end, True), done.stderr
        assert end == 1 or done.stderr == f"zoonnx models: {message}\n"


DURING = {
    "while modules load": "sys.meta_path.insert(0, Signal('typer'))",
    "while an extension loads": "sys.meta_path.insert(0, Signal('torch', ImportError('initialization failed')))",
    "while the verb runs": "import zoo.cli.inspect; zoo.cli.inspect.models = work",
}
SIGNALLED = """
import os, sys
class Signal:
    def __init__(self, name, instead=None):
        self.name, self.instead = name, instead
    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            try:
                os.kill(os.getpid(), {number})
            except BaseException as error:
                raise (self.instead or error) from error
def work():
    os.kill(os.getpid(), {number})
{during}
import zoonnx
zoonnx.main(['models'])
"""


@pytest.mark.parametrize(
    ("number", "status", "message"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("during", DURING.values(), ids=DURING)
def test_signals(number: int, status: int, message: str, during: str) -> None:
    """Ctrl-C and SIGTERM print one line and exit with their own status, whenever they arrive."""
    code = SIGNALLED.format(number=int(number), during=during)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", f"zoonnx models: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "convnet5", "--data", "digits", "--out", "{tmp}/run"), "did you mean 'convnet4'"),
        (("train", "convnet4", "--data", "digist", "--out", "{tmp}/run"), "digits"),
        (("eval", "{tmp}/nowhere", "--data", "digits"), "a run holds config.json"),
        (("export", "{tmp}/nowhere", "--to", "{tmp}/models"), "there is no folder"),
        (("export", "convnet4", "--to", ""), "--to is empty"),
        (("export", "convnet5", "--to", "{tmp}/models"), "did you mean 'convnet4'"),
        (("export", "convnet4", "--to", "{tmp}/models", "--opset", "99"), "opset 99 is not supported"),
        (("export", "convnet4", "--to", "{tmp}/models", "--name", "a/b"), "cannot be a model's name"),
        (("export", "convnet4", "--to", "{tmp}/models", "--name", ""), "cannot be a model's name"),
        (("export", "convnet4", "--to", "{tmp}/models", "--calibration-data", "digits"), "is for variants"),
        (("serve", "{tmp}/nowhere"), "nowhere"),
        (("infer", "{tmp}/nothing.png", "--model", "m"), "nothing.png"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """A user's mistake is one sentence on stderr, exit status 2, no traceback, and nothing written."""
    with pytest.raises(SystemExit) as end:
        dispatcher.main([argument.replace("{tmp}", str(tmp_path)) for argument in arguments])
    output = capsys.readouterr()
    assert end.value.code == 2
    assert output.err.startswith(f"zoonnx {arguments[0]}: ")
    assert message in output.err
    assert (output.err.count("\n"), output.out) == (1, "")
    assert list(tmp_path.iterdir()) == []


def test_an_unexpected_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nothing expects is one sentence, too; the traceback is in a file that it names."""

    def fail(_location: str) -> None:
        raise KeyError("a\nb")

    monkeypatch.setattr(dispatcher, "_load", fail)
    with pytest.raises(SystemExit) as end:
        dispatcher.main(["models"])
    output = capsys.readouterr().err
    assert (end.value.code, output.count("\n")) == (1, 1)
    assert output.startswith("zoonnx models: unexpected KeyError: 'a\\nb' The traceback is in ")
    file = Path(output.split()[-1].rstrip("."))
    assert "in fail" in file.read_text()
    file.unlink()
