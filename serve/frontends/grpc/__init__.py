"""The gRPC interface of the server."""
