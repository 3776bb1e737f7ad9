"""Converts a prepared network to ONNX, and checks the sizes that stay dynamic in the graph."""
