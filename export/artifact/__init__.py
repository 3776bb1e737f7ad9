"""Writes a model version: config.pbtxt, manifest.json, ONNX metadata, the report, and the model repository."""
