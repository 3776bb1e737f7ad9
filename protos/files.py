"""File names of a model repository, which its writer and its readers share."""

CONFIG = "config.pbtxt"
LABELS = "labels.txt"
MANIFEST = "manifest.json"
MODEL = "model.onnx"
