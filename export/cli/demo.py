"""`zoonnx demo`: trains, exports and serves a network with `zoonnx` commands; imports none of their packages."""

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

from export.cli.columns import Cell, format_rows
from export.errors import DemoError, OccupiedFolderError

NETWORK, DATASET, MODEL = "convnet4", "digits", "digits"
MIN_ACCURACY = 0.97
LOGIT_TOLERANCE = 1e-4
READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
DUMPED_CLASS = "3"  # class of the image whose layer outputs are saved
MARKER = ".made-by-zoonnx-demo"


@dataclass(frozen=True)
class Comparison:
    """The results of PyTorch and of the server for the same images.

    Attributes:
        images: Number of images.
        torch_accuracy: Fraction of correct predictions, 0 to 1.
        served_accuracy: Likewise, of the served model.
        same_classes: Number of images for which both predict the same class.
        max_logit_difference: Largest absolute difference of two logits.
        images_per_s: Throughput of the server as seen by the client.
    """

    images: int
    torch_accuracy: float
    served_accuracy: float
    same_classes: int
    max_logit_difference: float
    images_per_s: float


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all files of the demo; an earlier demo in it is replaced.")] = (
        Path("demo")
    ),
) -> None:
    """Train, export and serve a network for handwritten digits, and compare the server with PyTorch, all offline.

    Example: zoonnx demo --out demo
    """
    _clear(out)
    run, test, models = out / "run", out / "test", out / "models"
    _zoonnx("train", NETWORK, "--data", DATASET, "--out", run)
    _zoonnx("eval", run, "--data", DATASET, "--save", test)
    _zoonnx("export", run, "--to", models, "--name", MODEL)
    with _server(models, out / "server.log") as url:
        (out / "served.json").write_text(_zoonnx("infer", test / "images", "--model", MODEL, "--url", url, "--json"))
        image = min((test / "images" / DUMPED_CLASS).iterdir())
        _zoonnx("dump", image, "--model", MODEL, "--url", url, "--out", out / "layers.safetensors")
    comparison = compare(_predictions(test), json.loads((out / "served.json").read_text()))
    _print_rows(
        f"{comparison.images} test images of handwritten digits",
        [
            ("accuracy (PyTorch)", f"{comparison.torch_accuracy:.2%}"),
            ("accuracy (served)", f"{comparison.served_accuracy:.2%}"),
            ("largest logit difference", f"{comparison.max_logit_difference:.1e}"),
            ("throughput", f"{comparison.images_per_s:,.0f} images/s"),
            ("run", run),
            ("images", test / "images"),
            ("model", models / MODEL),
            ("predictions", out / "served.json"),
            ("layer outputs", out / "layers.safetensors"),
            ("layer outputs as an image", out / "layers.png"),
        ],
    )
    require(comparison)


def compare(predictions: Mapping[str, Mapping[str, str]], served: Mapping[str, Any]) -> Comparison:
    """Compare PyTorch's `predictions`, by file name, with the JSON output of `zoonnx infer`. Raises: DemoError."""
    results = {Path(result["file"]).name: result for result in served["results"]}
    if results.keys() != predictions.keys():
        raise DemoError(f"expected a prediction for each of {len(predictions)} images, got {len(results)}.")
    pairs = [(row, results[name]) for name, row in predictions.items()]
    count = len(pairs)
    return Comparison(
        images=count,
        torch_accuracy=sum(row["predicted"] == row["label"] for row, _ in pairs) / count,
        served_accuracy=sum(result["label"] == row["label"] for row, result in pairs) / count,
        same_classes=sum(result["label"] == row["predicted"] for row, result in pairs),
        max_logit_difference=max(_logit_difference(row, result["logits"]) for row, result in pairs),
        images_per_s=served["images_per_s"],
    )


def require(comparison: Comparison) -> None:
    """Fail the demo if the server and PyTorch disagree, or if the accuracy is too low. Raises: DemoError."""
    difference = comparison.max_logit_difference
    if comparison.same_classes != comparison.images or not difference <= LOGIT_TOLERANCE:
        raise DemoError(
            f"the server and PyTorch disagree: {comparison.images - comparison.same_classes} of {comparison.images} "
            f"classes differ, the largest logit difference is {difference:.2g} (tolerance {LOGIT_TOLERANCE:.0e})."
        )
    if comparison.torch_accuracy < MIN_ACCURACY:
        raise DemoError(
            f"expected a test accuracy of at least {MIN_ACCURACY:.0%}, got {comparison.torch_accuracy:.1%}."
        )


def _clear(out: Path) -> None:
    if out.exists() and not (out / MARKER).exists():
        raise OccupiedFolderError(f"{out} exists and was not created by this demo: choose another folder with --out.")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARKER).touch()


def _zoonnx(verb: str, *arguments: object) -> str:
    """Run a `zoonnx` command; return its standard output if that is JSON, otherwise show it on the terminal."""
    _announce(verb, arguments)
    stdout = subprocess.PIPE if "--json" in arguments else None
    done = subprocess.run(_command(verb, arguments), stdout=stdout, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"'zoonnx {verb}' ended with exit status {done.returncode}; see its error above.")
    return done.stdout or ""


@contextlib.contextmanager
def _server(models: Path, log: Path) -> Iterator[str]:
    """Start a server process on an unused loopback port, yield its HOST:PORT, and stop it cleanly at the end."""
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
        raise DemoError(f"the server did not start: {log.read_text().strip() or 'its log is empty'}")
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


def _predictions(test: Path) -> dict[str, dict[str, str]]:
    """Return the rows of predictions.csv by file name."""
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


def _print_rows(title: str, rows: Sequence[tuple[str, Cell]]) -> None:
    from rich.console import Console

    _print(f"\n{title}")
    for row in format_rows(rows, Console().width):
        _print(row)
