"""Runs the network in PyTorch to get the reference values that the ONNX model is compared with."""
