"""Atomic file writes, and downloads that fail fast without a network."""
