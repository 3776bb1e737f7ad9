"""Message classes. Generated from manifest.proto by `python -m protos.generate`."""

from protos import loader

DESCRIPTOR = loader.file("manifest.proto")
LayerStatus = loader.enum("zoonnx.v1.LayerStatus")
LAYER_STATUS_UNSPECIFIED = 0
EXACT = 1
ALIAS = 2
FOLDED = 3
NOT_EXPORTED = 4
Weights = loader.enum("zoonnx.v1.Weights")
WEIGHTS_UNSPECIFIED = 0
WEIGHTS_RANDOM = 1
WEIGHTS_TRAINED = 2
WEIGHTS_PRETRAINED = 3
WEIGHTS_GIVEN = 4
Cast = loader.message("zoonnx.v1.Cast")
ExtremeCheck = loader.message("zoonnx.v1.ExtremeCheck")
Field = loader.message("zoonnx.v1.Field")
File = loader.message("zoonnx.v1.File")
Format = loader.message("zoonnx.v1.Format")
Head = loader.message("zoonnx.v1.Head")
Layer = loader.message("zoonnx.v1.Layer")
LayerMap = loader.message("zoonnx.v1.LayerMap")
LayerSqnr = loader.message("zoonnx.v1.LayerSqnr")
Limits = loader.message("zoonnx.v1.Limits")
Manifest = loader.message("zoonnx.v1.Manifest")
Metric = loader.message("zoonnx.v1.Metric")
OutputDifference = loader.message("zoonnx.v1.OutputDifference")
Parity = loader.message("zoonnx.v1.Parity")
ParityCheck = loader.message("zoonnx.v1.ParityCheck")
Preprocessing = loader.message("zoonnx.v1.Preprocessing")
ShapeWitness = loader.message("zoonnx.v1.ShapeWitness")
Shapes = loader.message("zoonnx.v1.Shapes")
Source = loader.message("zoonnx.v1.Source")
Tensor = loader.message("zoonnx.v1.Tensor")
Variant = loader.message("zoonnx.v1.Variant")
