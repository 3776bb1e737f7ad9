"""Message classes. Generated from introspect.proto by `python -m protos.generate`."""

from protos import loader

DESCRIPTOR = loader.file("introspect.proto")
LayerNames = loader.enum("zoonnx.v1.LayerNames")
LAYER_NAMES_UNSPECIFIED = 0
MODULE_PATHS = 1
NODE_NAMES = 2
LayersRequest = loader.message("zoonnx.v1.LayersRequest")
LayersResponse = loader.message("zoonnx.v1.LayersResponse")
