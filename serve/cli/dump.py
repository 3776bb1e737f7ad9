"""`zoonnx dump`."""

from pathlib import Path
from typing import Annotated

import typer

from serve.cli.options import DEFAULT_URL, ModelName, ServerUrl
from serve.cli.progress import client_with_progress, counted

DumpPaths = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE|FOLDER...|ARRAYS.npz",
        help="Image files, folders that contain them, or one .npz file with an array per input, rows first.",
    ),
]


def dump(
    paths: DumpPaths,
    model: ModelName,
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="The file to write.")],
    layers: Annotated[
        list[str], typer.Option(metavar="GLOB", help="The layers to save, by name or pattern. Repeatable.")
    ] = ["*"],  # noqa: B006  typer copies it
    url: ServerUrl = DEFAULT_URL,
) -> None:
    """Save layer outputs of a served model for images, or for arrays if it does not accept images.

    FILE.safetensors holds a tensor per layer, under the layer's path, images first. FILE.png, beside it, is a contact
    sheet of the first image: the channels of every layer, and the class probabilities. A .npz file, as numpy.savez
    writes it, holds an array for each input of a model that was exported with --raw.

    Example: zoonnx dump a.jpg --model digits --layers 'act*' --out a.safetensors
    """
    from serve.client import images
    from serve.client.array_input import SUFFIX
    from serve.client.dump import dump_arrays, dump_images, save

    is_arrays = [path.suffix for path in paths] == [SUFFIX]
    files = paths if is_arrays else images.find(paths)
    with client_with_progress(url, model, len(files)) as (client, advance):
        if is_arrays:
            layer_dump = dump_arrays(client, model, files[0], layers, advance)
        else:
            layer_dump = dump_images(client, model, files, layers, advance)
    sheet = save(layer_dump, out)
    rows = counted(layer_dump.rows, "row") if is_arrays else counted(len(files), "image")
    typer.echo(f"saved {counted(len(layer_dump.arrays), 'layer')} of {rows} to {out}")
    for name, reason in layer_dump.missing.items():
        typer.echo(f"not saved: {name}; {reason}")
    typer.echo(f"contact sheet of the first {'row' if is_arrays else 'image'}: {sheet}")
