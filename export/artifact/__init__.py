"""Writes a model version: config.pbtxt, manifest.json, metadata, the report, and the repository around them."""
