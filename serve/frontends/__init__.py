"""The network interfaces of the server."""
