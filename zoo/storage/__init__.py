"""Stores files: writes that are atomic, downloads that stop early without a network."""
