"""Network interfaces of the server."""
