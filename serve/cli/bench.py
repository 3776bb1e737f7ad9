"""`zoonnx bench`."""

from typing import Annotated

import typer

from serve.cli.options import DEFAULT_URL, ModelName, ServerUrl


def bench(
    model: ModelName,
    url: ServerUrl = DEFAULT_URL,
    concurrency: Annotated[int, typer.Option(help="Requests in flight at any time.")] = 8,
    batch_size: Annotated[int, typer.Option(help="Rows per request.")] = 1,
    seconds: Annotated[float, typer.Option(help="Duration of the measurement.")] = 5.0,
    metrics: Annotated[
        str, typer.Option(metavar="URL", help="The server's /metrics; adds its CPU time per request to the report.")
    ] = "",
    rate: Annotated[
        float, typer.Option(help="Requests per second; 0 starts a request whenever another completes.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure a server's throughput and latency.

    The requests contain random tensors. The latency includes the client's own work. On the server's machine, the client
    also competes with the server for CPU time.

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
    typer.echo(f"throughput  {report.rows_per_s:.1f} rows/s, {report.requests} requests in {report.seconds:.1f} s")
    percentiles = (f"p{percentile} {latency:.2f} ms" for percentile, latency in report.latency_ms.items())
    typer.echo(f"latency     {'  '.join(percentiles)}")
    if report.cpu_ms_a_request is not None:
        typer.echo(f"server CPU  {report.cpu_ms_a_request:.3f} ms per request")
