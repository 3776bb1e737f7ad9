"""Verifies an ONNX model against PyTorch: layer map, shapes, numerical parity."""
