"""`zoonnx serve`, `zoonnx infer`, `zoonnx dump` and `zoonnx bench`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from serve.client.classify import Report
    from serve.client.sync import Client

CONNECT_TIMEOUT_S = 5.0  # a server that was started in the line above is still loading


def serve(
    models: Annotated[Path, typer.Argument(help="a model repository in Triton's layout, or one .onnx file")],
    host: Annotated[str, typer.Option(help="the address to listen on; 0.0.0.0 for all")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(help="the port for gRPC; 0 takes a free one")] = 8001,
    http_port: Annotated[
        int | None, typer.Option(help="a port for HTTP, with /metrics and /v2/health/ready; 0 takes a free one")
    ] = None,
    provider: Annotated[
        str, typer.Option(metavar="auto|cuda|cpu", help="where models run; auto is CUDA where it works, else the CPU")
    ] = "auto",
    model_control: Annotated[
        str,
        typer.Option(
            metavar="none|explicit|poll",
            help="who loads models: the start alone; clients; or the server, whenever their files change",
        ),
    ] = "none",
    load_model: Annotated[
        list[str], typer.Option(metavar="NAME", help="with explicit: load this at the start; may be given again")
    ] = [],  # noqa: B006  typer copies it
    poll_interval_s: Annotated[float, typer.Option(help="with poll: seconds between looks at the files")] = 15.0,
) -> None:
    """Serve a model repository over gRPC.

    Says `ready: ...` on one line when requests are answered, and on a second one where HTTP is. Ctrl-C or SIGTERM stop
    it: it answers what it has begun.

    Example: zoonnx serve models/ --grpc-port 8001
    """
    import logging

    from serve import app
    from serve.settings import ServerSettings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    settings = ServerSettings(
        models=models,
        host=host,
        grpc_port=grpc_port,
        http_port=http_port,
        provider=provider,  # type: ignore[arg-type]  # checked there
        model_control=model_control,  # type: ignore[arg-type]  # checked there
        load_models=tuple(load_model),
        poll_interval_s=poll_interval_s,
    )
    app.run(settings, typer.echo)


def infer(
    places: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="images, or folders of them")],
    model: Annotated[str, typer.Option(help="the model to ask")],
    url: Annotated[str, typer.Option(metavar="HOST:PORT", help="where the server listens")] = "127.0.0.1:8001",
    batch_size: Annotated[int | None, typer.Option(help="images a request; by default the model's largest")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="everything, as JSON on stdout")] = False,
    as_csv: Annotated[
        bool,
        typer.Option(
            "--csv",
            help="a line an image, as CSV on stdout; of several labels, those over 0.5",
        ),
    ] = False,
) -> None:
    """Ask a server about images.

    Images are resized and cropped here, by the rule that the model brings along.

    Example: zoonnx infer photos/ --model digits --url 127.0.0.1:8001
    """
    from serve.client import images
    from serve.client.classify import ask
    from serve.errors import SettingsError

    if as_json and as_csv:
        raise SettingsError("give --json or --csv, not both.")
    files = images.find(places)
    with _asking(url, model, len(files)) as (client, advance):
        report = ask(client, model, files, batch_size, advance)
    if as_json:
        typer.echo(_json(report))
    elif as_csv:
        typer.echo(_csv(report), nl=False)
    else:
        _show(report)


def dump(
    places: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="images, or folders of them")],
    model: Annotated[str, typer.Option(help="the model to ask")],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="where the activations go")],
    layers: Annotated[list[str], typer.Option(metavar="GLOB", help="which layers; may be given again")] = ["*"],  # noqa: B006  typer copies it
    url: Annotated[str, typer.Option(metavar="HOST:PORT", help="where the server listens")] = "127.0.0.1:8001",
) -> None:
    """Save what layers of a model gave for images.

    FILE.safetensors gets a tensor for each layer under its path, images first; FILE.png, beside it, a contact sheet
    of the first image: every layer's channels, and the class probabilities.

    Example: zoonnx dump photo.jpg --model digits --layers 'act*' --out activations.safetensors
    """
    from serve.client import images
    from serve.client.dump import dump as ask_for
    from serve.client.dump import save

    files = images.find(places)
    with _asking(url, model, len(files)) as (client, advance):
        found = ask_for(client, model, files, layers, advance)
    sheet = save(found, out)
    typer.echo(f"{_count(len(found.arrays), 'layer')} of {_count(len(files), 'image')}: {out}")
    absent = {name: words for name, words in found.layers.items() if isinstance(words, str)}
    for name, words in absent.items():
        typer.echo(f"not among them: {name}; {words}")
    typer.echo(f"the first image, layer by layer: {sheet}")


def bench(
    model: Annotated[str, typer.Option(help="the model to ask")],
    url: Annotated[str, typer.Option(metavar="HOST:PORT", help="where the server listens")] = "127.0.0.1:8001",
    concurrency: Annotated[int, typer.Option(help="requests that are always under way")] = 8,
    batch_size: Annotated[int, typer.Option(help="rows a request")] = 1,
    seconds: Annotated[float, typer.Option(help="how long to measure")] = 5.0,
    metrics: Annotated[str, typer.Option(metavar="URL", help="the server's /metrics: tells its CPU time too")] = "",
    rate: Annotated[float, typer.Option(help="requests a second; 0 asks as fast as answers come")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON on stdout")] = False,
) -> None:
    """Measure how fast a server answers.

    Asks with made-up tensors. The client's own work is part of the latencies, and takes cores where it runs beside the
    server.

    Example: zoonnx bench --model digits --url 127.0.0.1:8001 --concurrency 8
    """
    import asyncio
    import json
    from dataclasses import asdict

    from serve.client.load_test import LoadSettings, measure

    report = asyncio.run(measure(url, LoadSettings(model, concurrency, batch_size, seconds, metrics, rate)))
    if as_json:
        typer.echo(json.dumps({**asdict(report), "rows_per_s": report.rows_per_s}))
        return
    typer.echo(f"{report.rows_per_s:.1f} rows a second, {report.requests} requests in {report.seconds:.1f} s")
    typer.echo("  ".join(f"p{each} {ms:.2f} ms" for each, ms in report.latency_ms.items()))
    if report.cpu_ms_a_request is not None:
        typer.echo(f"{report.cpu_ms_a_request:.3f} ms of the server's CPU a request")


@contextmanager
def _asking(url: str, model: str, total: int) -> "Iterator[tuple[Client, Callable[[int], None]]]":
    """A connected client, and what to tell how many more of `total` images are done."""
    from rich.console import Console
    from rich.progress import Progress

    from serve.client.sync import Client

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress, Client(url) as client:
        client.wait_connected(CONNECT_TIMEOUT_S)
        task = progress.add_task(model, total=total)
        yield client, lambda count: progress.advance(task, count)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _json(report: "Report") -> str:
    import json
    from dataclasses import asdict

    results = [
        {key: value for key, value in asdict(each).items() if key != "runner_up" and value is not None}
        for each in report.answers
    ]
    summary = {"images": len(results), "seconds": report.seconds, "images_per_s": report.images_per_s}
    return json.dumps({"model": report.model, "version": report.version, **summary, "results": results})


def _csv(report: "Report") -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    several = any(each.labels is not None for each in report.answers)
    writer.writerow(["file", "label", "index", "probability", *(["labels"] if several else [])])
    for each in report.answers:
        labels = [] if each.labels is None else [";".join(each.labels)]
        writer.writerow([each.file, each.label, each.index, each.probability, *labels])
    return text.getvalue()


def _show(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    many = any(each.labels is not None for each in report.answers)
    table = Table(
        "file", *(["labels"] if many else []), "best" if many else "class", "probability", "runner-up", box=None
    )
    for each in report.answers:
        labels = [] if each.labels is None else [Text(", ".join(each.labels) or "none")]
        table.add_row(Text(each.file), *labels, Text(each.label), f"{each.probability:.1%}", Text(each.runner_up))
    Console().print(table)
    Console(stderr=True).print(f"{_count(len(report.answers), 'image')}, {report.images_per_s:.0f} a second")
