"""Serves ONNX models over gRPC, and asks servers. Knows files and messages, never PyTorch."""
