"""Reads model repositories in Triton's layout."""
