"""The verbs `zoonnx train`, `tune`, `eval`, `describe`, `compare` and `models`."""
