"""Serve ONNX models over gRPC, and clients for such servers. Reads files and messages; never imports PyTorch."""
