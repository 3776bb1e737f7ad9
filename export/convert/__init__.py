"""Converts a prepared network to ONNX, and checks the sizes that the graph leaves dynamic."""
