"""A server of ONNX models over gRPC, and its clients. Reads files and messages; never imports PyTorch."""
