"""The version of zoonnx, written into every manifest."""

VERSION = "0.1.0"
