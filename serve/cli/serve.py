"""`zoonnx serve`."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    models: Annotated[Path, typer.Argument(help="A model repository in Triton's layout, or one .onnx file.")],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all interfaces.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(help="The gRPC port; 0 for any unused port.")] = 8001,
    grpc_frontend: Annotated[
        str,
        typer.Option(
            metavar="auto|native|grpcio",
            help="The HTTP/2 server for gRPC. native is several times cheaper but does not bound message sizes; "
            "auto selects it where it is installed and only this machine can connect.",
        ),
    ] = "auto",
    http_port: Annotated[
        int | None,
        typer.Option(help="The HTTP port for /metrics and /v2/health/ready; 0 for any unused port. Default: no HTTP."),
    ] = None,
    provider: Annotated[
        str,
        typer.Option(metavar="auto|cuda|cpu", help="The device that runs models; auto is CUDA if available, else CPU."),
    ] = "auto",
    model_control: Annotated[
        str,
        typer.Option(
            metavar="none|explicit|poll",
            help="When models are loaded: none, at startup; explicit, on request of a client; "
            "poll, also whenever their files change.",
        ),
    ] = "none",
    load_model: Annotated[
        list[str], typer.Option(metavar="NAME", help="With explicit: a model to load at startup. Repeatable.")
    ] = [],  # noqa: B006  typer copies it
    poll_interval_s: Annotated[float, typer.Option(help="With poll: seconds between checks of the files.")] = 15.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Do not start if any model cannot be loaded. Default: serve the others.")
    ] = False,
    max_batch: Annotated[
        int,
        typer.Option(
            help="The largest batch of models without config.pbtxt, if a trial run shows that they accept batches; "
            "0: no batches."
        ),
    ] = 4,
    max_message_mib: Annotated[
        int, typer.Option(help="The largest request in MiB, 1 to 2047; zoonnx's clients split larger batches.")
    ] = 64,
) -> None:
    """Serve a model repository over gRPC.

    Prints `ready: ...` once requests are accepted, and the address of the metrics if there is an HTTP port. On Ctrl-C
    or SIGTERM, the server finishes the requests in flight and exits.

    Example: zoonnx serve models/ --grpc-port 8001
    """
    import logging

    from serve import app
    from serve.settings import MIB, ServerSettings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    settings = ServerSettings(
        models=models,
        host=host,
        grpc_port=grpc_port,
        grpc_frontend=grpc_frontend,  # type: ignore[arg-type]  # ServerSettings validates it
        http_port=http_port,
        provider=provider,  # type: ignore[arg-type]  # ServerSettings validates it
        model_control=model_control,  # type: ignore[arg-type]  # ServerSettings validates it
        load_models=tuple(load_model),
        poll_interval_s=poll_interval_s,
        strict=strict,
        max_batch_size=max_batch,
        max_message_bytes=max_message_mib * MIB,
    )
    app.run(settings, typer.echo)
