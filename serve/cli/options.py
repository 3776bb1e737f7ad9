"""Arguments and options that the client commands share."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_URL = "127.0.0.1:8001"
ImagePaths = Annotated[
    list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Image files, or folders that contain them.")
]
ModelName = Annotated[str, typer.Option(help="The name of the model.")]
ServerUrl = Annotated[str, typer.Option(metavar="HOST:PORT", help="The server's gRPC address.")]
