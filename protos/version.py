"""Versions of zoonnx and of its manifest schema; every manifest has both."""

VERSION = "0.1.0"
SCHEMA_VERSION = 1  # see ARCHITECTURE.md for when it increases
