"""From PyTorch to an ONNX model repository, numerically verified.

from export import ExportSettings, export_model
exported = export_model(zoo.load_network("runs/digits"), ExportSettings(to=Path("models"), name="digits"))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.pipeline import Exported, export_model
    from export.settings import ExportSettings

_MODULES = {"Exported": "pipeline", "export_model": "pipeline", "ExportSettings": "settings"}
__all__ = ["ExportSettings", "Exported", "export_model"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `zoonnx export --help` need not load PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'export' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"export.{_MODULES[name]}"), name)
