"""Loads the network to export from a user's code, and rejects networks that cannot be exported."""
