"""Verifies a written model again from its files alone, without PyTorch and without the exporter.

artifact          the files of a version: its folder, its manifest, config.pbtxt and the ONNX model
files             the manifest's own hash, the hash of each file, missing and unlisted files; absolute paths
consistency       ONNX file, manifest and config.pbtxt agree on opset, tensors, labels and preprocessing
layers            the layer map is the same in the ONNX file and the manifest, and agrees with the graph
shapes            the shapes of all values at two batch sizes, as onnxruntime computes them
test_data         the outputs for the test data, within a plausible tolerance
pre_post          the graph normalises images and computes probabilities as the manifest declares
self_consistency  the results in the manifest contradict neither each other nor the graph
edge              the files for devices, by their hashes
run               runs the checks in order; if a file is damaged, the contents are not checked
"""
