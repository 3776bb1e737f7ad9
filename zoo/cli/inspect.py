"""The verbs that inspect networks: `describe`, `compare`, `models`.

Modules that need torch are imported inside the functions, so that help appears at once.
"""

import json
from typing import Annotated

import typer


def describe(
    network: Annotated[
        str, typer.Argument(metavar="NETWORK|RUN|MODEL", help="A network by name, a run's folder, or models/NAME.")
    ],
    input_size: Annotated[
        str | None, typer.Option(metavar="C,H,W", help="Input size. Default: the network's own size.")
    ] = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Show layers up to this depth; 0: the totals only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every layer of a network: its window, output, parameters, multiply-accumulates and receptive field.

    Everything is derived from the network's graph, without images. The numbers of a layer include those of the layers
    inside it. `field` is the receptive field in pixels (`all`: the whole image; `<=`: at most). `stride` shows whether
    the windows cover the input exactly, skip only padding, or drop rows of the input; dropped rows are an error in a
    network of this catalog. For an exported model, `in the file` shows the status of each layer.

    Example: zoonnx describe resnet18 --input-size 3,224,224 --depth 2
    """
    from zoo.geometry.input_size import parse_size
    from zoo.inspect import describe as page
    from zoo.inspect.target import find_target

    target = find_target(network)
    geometry = target.geometry(parse_size(input_size) if input_size else None)
    if as_json:
        typer.echo(json.dumps(page.as_json(target, geometry, depth)))
    else:
        page.show(target, geometry, depth)


def compare(
    networks: Annotated[
        list[str] | None, typer.Argument(metavar="NETWORK ...", help="Networks by name, runs' folders or models/NAME.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="C,H,W", help="Compare three types of layer on an input of this size.")
    ] = None,
    to: Annotated[int, typer.Option(min=1, help="Output channels of the layers.")] = 8,
    kernel: Annotated[int, typer.Option(min=1, help="Size of the layers' windows along each axis.")] = 3,
    stride: Annotated[int, typer.Option(min=1, help="Stride of the layers' windows.")] = 1,
    padding: Annotated[
        str,
        typer.Option(metavar="same|valid|P", help="Rows of zeros at each edge; same: keep the input's size."),
    ] = "same",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare networks, or three ways to connect a layer.

    `--layers` compares a fully connected, a locally connected and a convolutional layer with outputs of the same size:
    what local windows save, and what sharing the weights saves in addition.

    Example: zoonnx compare --layers 1,8,8 --to 8 --kernel 3
    """
    from zoo.errors import SettingsError
    from zoo.geometry.input_size import parse_size
    from zoo.inspect import compare as page
    from zoo.inspect.target import find_target

    if bool(networks) == bool(layers):
        raise SettingsError("name the networks to compare, or pass --layers C,H,W")
    if layers:
        rows = page.layer_rows(page.LayerSpec(parse_size(layers), to, kernel, stride, padding))
    else:
        rows = page.network_rows([find_target(network) for network in networks or ()])
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        page.show(rows)


def models(
    pattern: Annotated[str, typer.Argument(help="A name with wildcards, such as 'resnet*'.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only networks with weights to download.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List networks by name: those of this catalog, then timm's.

    Lists of at most 24 also show parameters and multiply-accumulates. `weights` are those that timm can download.

    Example: zoonnx models 'mobilenetv3*' --pretrained
    """
    from zoo.inspect import list_networks as page

    rows = page.network_entries(pattern, pretrained)
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        page.show(rows)
