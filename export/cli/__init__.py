"""The verbs `zoonnx export`, `zoonnx check` and `zoonnx demo`."""
