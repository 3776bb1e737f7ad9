"""Makes the images of README and docs from a run of their own: `make images`. Needs chromium on the PATH."""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

import zoonnx

DOCS = Path(__file__).parent
WINDOW = (1160, 2265)
REPORT_WIDTH_PX, COLORS = 870, 128


def main() -> None:
    """Train, export, serve and dump as the README does, and write docs/report.png and docs/layers.png."""
    if shutil.which("chromium") is None:
        sys.exit("docs.images: chromium is not installed.")
    with TemporaryDirectory() as name:
        folder = Path(name)
        _command("train", "convnet4", "--data", "digits", "--epochs", 3, "--out", folder / "digits")
        _command("eval", folder / "digits", "--data", "digits", "--save", folder / "test")
        _command("export", folder / "digits", "--to", folder / "models", "--name", "digits")
        _dump_layers(folder)
        _screenshot(folder / "digits" / "report.html", folder / "report.png")
        shutil.copy(folder / "layers.png", DOCS / "layers.png")
        _shrink(folder / "report.png", DOCS / "report.png")


def _command(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "zoonnx", *map(str, arguments)], check=True)


def _dump_layers(folder: Path) -> None:
    image, out = folder / "test" / "images" / "3" / "00002.png", folder / "layers.safetensors"
    with zoonnx.serve(folder / "models") as server:
        _command("dump", image, "--model", "digits", "--url", server.url, "--out", out)


def _screenshot(page: Path, image: Path) -> None:
    size = ",".join(map(str, WINDOW))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={size}"]
    profile = f"--user-data-dir={page.parent / 'browser'}"
    subprocess.run(["chromium", *options, profile, f"--screenshot={image}", str(page)], check=True, capture_output=True)


def _shrink(source: Path, target: Path) -> None:
    with Image.open(source) as image:
        size = (REPORT_WIDTH_PX, REPORT_WIDTH_PX * image.height // image.width)
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small.quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(target, optimize=True)


if __name__ == "__main__":
    main()
