"""The public Python API by name, and the `zoonnx` command.

The API is imported on first use, so that `from zoonnx import Client` needs neither PyTorch nor onnxruntime.
The command finds the verb's function and runs it. An exception that carries `exit_status` is meant for the user: its
text goes to stderr as one sentence, without a traceback.
"""

import contextlib
import difflib
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from export.check.run import check_model as check
    from export.input_spec import InputSpec
    from export.pipeline import export_model
    from export.settings import ExportSettings
    from serve.client import AsyncClient, Client
    from serve.process import serve
    from zoo.catalog import create_model, list_models
    from zoo.runs.evaluate import evaluate_run as evaluate
    from zoo.settings import TrainSettings, Transfer, TuneSettings
    from zoo.training.trainer import train, tune

__all__ = [
    "AsyncClient",
    "Client",
    "ExportSettings",
    "InputSpec",
    "TrainSettings",
    "Transfer",
    "TuneSettings",
    "check",
    "create_model",
    "evaluate",
    "export_model",
    "list_models",
    "main",
    "serve",
    "train",
    "tune",
]

# public name: where it is defined
API = {
    "AsyncClient": "serve.client:AsyncClient",
    "Client": "serve.client:Client",
    "ExportSettings": "export.settings:ExportSettings",
    "InputSpec": "export.input_spec:InputSpec",
    "TrainSettings": "zoo.settings:TrainSettings",
    "Transfer": "zoo.settings:Transfer",
    "TuneSettings": "zoo.settings:TuneSettings",
    "check": "export.check.run:check_model",
    "create_model": "zoo.catalog:create_model",
    "evaluate": "zoo.runs.evaluate:evaluate_run",
    "export_model": "export.pipeline:export_model",
    "list_models": "zoo.catalog:list_models",
    "serve": "serve.process:serve",
    "train": "zoo.training.trainer:train",
    "tune": "zoo.training.trainer:tune",
}

# verb: (where its function is, the extra that installs what it needs, summary)
VERBS = {
    "models": ("zoo.cli.inspect:models", "train", "list the networks by name"),
    "describe": ("zoo.cli.inspect:describe", "train", "show every layer of a network: sizes, costs, receptive field"),
    "compare": ("zoo.cli.inspect:compare", "train", "compare networks, or layer types, side by side"),
    "train": ("zoo.cli.train:train", "train", "train a network from scratch"),
    "tune": ("zoo.cli.train:tune", "train", "fine-tune a pretrained backbone under a new head"),
    "eval": ("zoo.cli.evaluate:eval_", "train", "evaluate a trained network on a dataset"),
    "export": ("export.cli.export:export", "export", "export a network to ONNX, into a Triton model repository"),
    "check": ("export.cli.check:check", "serve", "verify an exported model from its files alone"),
    "serve": ("serve.cli.serve:serve", "serve", "serve a model repository over gRPC"),
    "infer": ("serve.cli.infer:infer", "client", "classify images with a served model"),
    "dump": ("serve.cli.dump:dump", "client", "save layer activations of a served model, as tensors and an image"),
    "bench": ("serve.cli.bench:bench", "client", "measure a server's throughput and latency"),
    "demo": ("export.cli.demo:demo", "all", "train, export, serve and query, offline, on handwritten digits"),
}
OUR_PACKAGES = ("zoo", "export", "serve", "protos")
ROOT = Path(__file__).resolve().parent


class ShadowedPackageError(ImportError):
    """Another module has the name of one of zoonnx's packages and comes first on the import path."""

    exit_status = 2


class _TerminatedError(BaseException):
    """Raised on SIGTERM, so that work is abandoned as on Ctrl-C and nothing is left half-written."""


# what a signal raises: (message, exit status: 128 plus the signal's number, as in shells)
SIGNALS: dict[type[BaseException], tuple[str, int]] = {
    KeyboardInterrupt: ("interrupted", 130),
    _TerminatedError: ("terminated", 143),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use.

    Raises:
        ShadowedPackageError: a foreign module hides one of our packages.
    """
    if name not in API:
        raise AttributeError(f"module 'zoonnx' has no attribute '{name}'")
    _require_own_packages()
    return _load(API[name])


def __dir__() -> list[str]:
    return sorted({*globals(), *API})


def main(argv: Sequence[str] | None = None) -> None:
    """Run `zoonnx VERB ...`. Exit status: 0 done, 1 the work failed, 2 the user's mistake, 130 Ctrl-C, 143 SIGTERM."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        _print_overview()
    elif arguments[0] == "--version":
        _print_version()
    else:
        _run(arguments[0], arguments[1:])


def _run(verb: str, arguments: list[str]) -> None:
    _require_current_folder(verb)
    try:
        _require_own_packages()
        with _terminated_by_sigterm():
            _command(verb)(arguments, prog_name=f"zoonnx {verb}")
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has closed it: exit without a message
        sys.exit(1)
    except (KeyboardInterrupt, _TerminatedError) as error:
        _exit_for_signal(verb, error)
    except Exception as error:  # noqa: BLE001 - the last resort
        _exit_for_known_error(verb, error)
        _exit_for_unexpected_error(verb, error)


def _require_current_folder(verb: str) -> None:
    """Refuse to run in a folder that was removed: libraries cannot even be imported there."""
    try:
        Path.cwd()
    except FileNotFoundError:
        _fail(verb, "the current folder no longer exists: change to another one.", 2)


def _require_own_packages() -> None:
    """Refuse to run if a file of the user hides one of our packages.

    Raises:
        ShadowedPackageError: names the file.
    """
    for name in OUR_PACKAGES:
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.origin and Path(spec.origin).resolve().parent != ROOT / name:
            raise ShadowedPackageError(
                f"{spec.origin} hides zoonnx's own package '{name}': rename that file, or run from another folder."
            )


def _exit_for_known_error(verb: str, error: Exception) -> None:
    """Exit with one sentence, unless the error is unexpected."""
    for cause in _chain(error):
        if isinstance(cause, tuple(SIGNALS)):
            _exit_for_signal(verb, cause)
    if hasattr(error, "exit_status") and not hasattr(error, "is_unexpected"):
        _fail(verb, str(error), int(error.exit_status))
    if isinstance(error, MemoryError):
        _fail(verb, f"out of memory: {str(error) or 'an allocation failed'}.", 1)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        _fail(verb, f"{where}{error.strerror or error}.", 1)


def _exit_for_unexpected_error(verb: str, error: Exception) -> NoReturn:
    """Exit with one sentence, which names a file with the traceback."""
    import tempfile
    import traceback

    text = str(error) if hasattr(error, "is_unexpected") else f"unexpected {type(error).__name__}: {error}"
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", errors="backslashreplace", prefix=f"zoonnx-{verb}-", suffix=".txt", delete=False
    ) as file:
        traceback.print_exception(error, file=file)
    _fail(verb, f"{' '.join(text.split())} The traceback is in {file.name}.", 1)


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an exception and its causes: a library may wrap a signal's exception while it is imported."""
    chain: list[BaseException] = []
    while error and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _command(verb: str) -> Callable[..., Any]:
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(VERBS)}."
        _fail(verb, f"there is no such verb; {hint}", 2)
    import typer

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(_function(verb))
    return app


def _function(verb: str) -> Callable[..., Any]:
    location, extra, _ = VERBS[verb]
    function: Callable[..., Any] = _load(location)
    return _naming_missing_extra(verb, extra, function)


def _load(location: str) -> Any:
    """Import `module:attribute`."""
    module, attribute = location.split(":")
    return getattr(importlib.import_module(module), attribute)


def _naming_missing_extra(verb: str, extra: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `function` so that a package that is not installed is reported with the extra that installs it."""
    import functools

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except KeyboardInterrupt as error:  # typer would exit without a message
            _exit_for_signal(verb, error)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if not package or package in OUR_PACKAGES:
                raise
            _fail(verb, f"the package '{package}' is not installed; run: pip install 'zoonnx[{extra}]'", 2)

    return run


def _print_version() -> None:
    from protos.version import VERSION

    _write(f"zoonnx {VERSION}", sys.stdout)


def _print_overview() -> None:
    lines = [f"  {verb:<8} {summary}" for verb, (_, _, summary) in VERBS.items()]
    head = "zoonnx: from a CNN in PyTorch to predictions over gRPC, with every layer open to inspection."
    usage = "Usage: zoonnx VERB ..."
    foot = "zoonnx VERB --help explains a verb and gives an example."
    _write("\n".join([head, "", usage, "", *lines, "", foot]), sys.stdout)


@contextlib.contextmanager
def _terminated_by_sigterm() -> Iterator[None]:
    """Raise on SIGTERM within the block, so that it cleans up; keep a handler that other code has installed."""

    def terminate(_number: int, _frame: Any) -> None:
        raise _TerminatedError

    is_main = threading.current_thread() is threading.main_thread()
    install = is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if install:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if install:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit_for_signal(verb: str, raised: BaseException) -> NoReturn:
    """Exit for a signal; a second one ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    _fail(verb, *SIGNALS[type(raised)])


def _fail(verb: str, message: str, status: int) -> NoReturn:
    """Exit with one sentence; characters that would control the terminal are written as escapes."""
    text = f"zoonnx {verb}: {message}"
    _write("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text), sys.stderr)
    sys.exit(status)


def _write(text: str, stream: Any) -> None:
    if stream is not None:  # None where the process was started with the stream closed
        stream.write(f"{text}\n")
        stream.flush()


if __name__ == "__main__":
    main()
