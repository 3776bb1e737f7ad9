"""`zoonnx demo`: the main job, as a script of `zoonnx` commands. It imports none of the packages that they run."""

import contextlib
import csv
import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from export.errors import DemoError, OccupiedFolderError

NET, DATA, MODEL = "convnet4", "digits", "digits"
LEAST_ACCURACY = 0.97
LOGIT_TOLERANCE = 1e-4
READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
IMAGED = "3"  # the digit whose layers are shown
MARKER = ".made-by-zoonnx-demo"


@dataclass(frozen=True)
class Comparison:
    """What PyTorch and the server said of the same images; accuracies are shares of 1."""

    images: int
    torch_accuracy: float
    served_accuracy: float
    same_classes: int
    max_logit_difference: float
    images_per_s: float


def demo(
    out: Annotated[
        Path, typer.Option(help="the folder for everything that the demo makes; made anew each time")
    ] = Path("demo"),
) -> None:
    """Train, export, serve and ask, offline, on real handwritten digits.

    Example: zoonnx demo --out demo
    """
    _clear(out)
    run, test, models = out / "run", out / "test", out / "models"
    _zoonnx("train", NET, "--data", DATA, "--out", run)
    _zoonnx("eval", run, "--data", DATA, "--save", test)
    _zoonnx("export", run, "--to", models, "--name", MODEL)
    with _server(models, out / "server.log") as url:
        (out / "served.json").write_text(_zoonnx("infer", test / "images", "--model", MODEL, "--url", url, "--json"))
        _zoonnx("dump", _one_image(test), "--model", MODEL, "--url", url, "--out", out / "layers.safetensors")
    comparison = compare(_predictions(test), json.loads((out / "served.json").read_text()))
    places = {"run": run, "images": test / "images", "model": models / MODEL, "answers": out / "served.json"}
    _show(comparison, {**places, "layers": out / "layers.safetensors", "a look at them": out / "layers.png"})
    require(comparison)


def compare(predictions: Mapping[str, Mapping[str, str]], served: Mapping[str, Any]) -> Comparison:
    """Compare PyTorch's `predictions`, by file name, with the server's answers."""
    answers = {Path(answer["file"]).name: answer for answer in served["results"]}
    if answers.keys() != predictions.keys():
        raise DemoError(f"{len(predictions)} images were sent, but the server answered for {len(answers)} of them.")
    rows = [(row, answers[name]) for name, row in predictions.items()]
    count = len(rows)
    return Comparison(
        images=count,
        torch_accuracy=sum(row["predicted"] == row["label"] for row, _ in rows) / count,
        served_accuracy=sum(answer["label"] == row["label"] for row, answer in rows) / count,
        same_classes=sum(answer["label"] == row["predicted"] for row, answer in rows),
        max_logit_difference=max(_logit_difference(row, answer["logits"]) for row, answer in rows),
        images_per_s=served["images_per_s"],
    )


def require(found: Comparison) -> None:
    """Refuse a demo that did not show what it promises. Raises: DemoError."""
    if found.same_classes != found.images or not found.max_logit_difference <= LOGIT_TOLERANCE:
        raise DemoError(
            f"the server and PyTorch disagree: {found.images - found.same_classes} of {found.images} classes differ, "
            f"the largest logit difference is {found.max_logit_difference:.2g} (allowed {LOGIT_TOLERANCE:.0e})."
        )
    if found.torch_accuracy < LEAST_ACCURACY:
        raise DemoError(f"test accuracy is {found.torch_accuracy:.1%}, less than the {LEAST_ACCURACY:.0%} promised.")


def _clear(out: Path) -> None:
    if out.exists() and not (out / MARKER).exists():
        raise OccupiedFolderError(f"{out} exists and was not made by this demo: choose another folder with --out.")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARKER).touch()


def _zoonnx(verb: str, *arguments: object) -> str:
    """Run a verb; what it says to people passes through, what it says on stdout is returned as well."""
    _announce(verb, arguments)
    quiet = "--json" in arguments
    done = subprocess.run(_command(verb, arguments), stdout=subprocess.PIPE if quiet else None, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"'zoonnx {verb}' ended with exit status {done.returncode}; its reason stands above.")
    return done.stdout or ""


@contextlib.contextmanager
def _server(models: Path, log: Path) -> Iterator[str]:
    """A server process on a free loopback port, stopped cleanly at the end. Gives its HOST:PORT."""
    arguments = (models, "--grpc-port", 0)
    _announce("serve", arguments)
    with log.open("w") as errors:
        command = _command("serve", arguments)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server:
            try:
                yield _address(server, log)
                _stop(server, log)
            finally:
                server.kill()


def _address(server: "subprocess.Popen[str]", log: Path) -> str:
    stdout: IO[str] | None = server.stdout
    line = stdout.readline() if stdout else ""
    if not line.startswith("ready:"):
        server.wait(READY_TIMEOUT_S)
        raise DemoError(f"the server did not start: {log.read_text().strip() or 'it said nothing'}")
    _print(line.strip())
    return line.split()[-1]


def _stop(server: "subprocess.Popen[str]", log: Path) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        status = server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise DemoError(f"the server did not stop within {STOP_TIMEOUT_S} s; see {log}.") from None
    if status != 0:
        raise DemoError(f"the server stopped with exit status {status}; see {log}.")


def _one_image(test: Path) -> Path:
    return min((test / "images" / IMAGED).iterdir())


def _predictions(test: Path) -> dict[str, dict[str, str]]:
    with (test / "predictions.csv").open(newline="") as file:
        return {Path(row["file"]).name: row for row in csv.DictReader(file)}


def _logit_difference(row: Mapping[str, str], served: Sequence[float]) -> float:
    expected = [float(value) for key, value in row.items() if key not in ("file", "label", "predicted")]
    return max(abs(a - b) for a, b in zip(expected, served, strict=True))


def _command(verb: str, arguments: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", "zoonnx", verb, *map(str, arguments)]


def _announce(verb: str, arguments: Sequence[object]) -> None:
    _print(f"\n$ zoonnx {verb} {shlex.join(map(str, arguments))}")


def _print(text: str) -> None:
    from rich.console import Console

    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def _show(found: Comparison, places: Mapping[str, Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found.images} test images of handwritten digits", show_header=False, title_justify="left")
    table.add_row("accuracy in PyTorch", f"{found.torch_accuracy:.2%}")
    table.add_row("accuracy as served", f"{found.served_accuracy:.2%}")
    table.add_row("largest logit difference", f"{found.max_logit_difference:.1e}")
    table.add_row("served", f"{found.images_per_s:,.0f} images/s")
    for what, place in places.items():
        table.add_row(what, str(place))
    console = Console()
    console.print()
    console.print(table)
