"""gRPC interface of the server."""
