"""Converts between protobuf messages and numpy arrays."""
