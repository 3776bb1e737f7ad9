"""The commands `zoonnx export`, `zoonnx check` and `zoonnx demo`."""
