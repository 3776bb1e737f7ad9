"""`zoonnx dump`."""

from pathlib import Path
from typing import Annotated

import typer

from serve.cli.options import DEFAULT_URL, ImagePaths, ModelName, ServerUrl
from serve.cli.progress import client_with_progress, counted


def dump(
    paths: ImagePaths,
    model: ModelName,
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="The file to write.")],
    layers: Annotated[
        list[str], typer.Option(metavar="GLOB", help="The layers to save, by name or pattern. Repeatable.")
    ] = ["*"],  # noqa: B006  typer copies it
    url: ServerUrl = DEFAULT_URL,
) -> None:
    """Save layer outputs of a served model for images.

    FILE.safetensors holds a tensor per layer, under the layer's path, images first. FILE.png, beside it, is a contact
    sheet of the first image: the channels of every layer, and the class probabilities.

    Example: zoonnx dump a.jpg --model digits --layers 'act*' --out a.safetensors
    """
    from serve.client import images
    from serve.client.dump import dump_layers, save

    files = images.find(paths)
    with client_with_progress(url, model, len(files)) as (client, advance):
        layer_dump = dump_layers(client, model, files, layers, advance)
    sheet = save(layer_dump, out)
    typer.echo(f"saved {counted(len(layer_dump.arrays), 'layer')} of {counted(len(files), 'image')} to {out}")
    for name, reason in layer_dump.missing.items():
        typer.echo(f"not saved: {name}; {reason}")
    typer.echo(f"contact sheet of the first image: {sheet}")
