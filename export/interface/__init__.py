"""The inputs and outputs of a model file: image preprocessing, the classification head, names and signature."""
