"""Loads a network from user code, and rejects networks that cannot be exported."""
