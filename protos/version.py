"""The versions of zoonnx and of the manifest that it writes; both stand in every manifest."""

VERSION = "0.1.0"
SCHEMA_VERSION = 1  # ARCHITECTURE.md says when it grows
