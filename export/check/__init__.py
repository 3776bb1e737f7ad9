"""Verifies a written model again from its files alone, without PyTorch and without the exporter.

artifact          the files of a version: its folder, its manifest, config.pbtxt and the ONNX model
files             the manifest's own hash, the hash of each file, missing and unlisted files, absolute paths
consistency       ONNX file, manifest and config.pbtxt agree on opset, tensors, labels and preprocessing
layers            the layer map is the same in the ONNX file and the manifest, and fits the names in the graph
numbers           the shapes of all values at two batch sizes, as onnxruntime computes them
test_data         the outputs for the test data, within a tolerance that an export can have recorded
pre_post          the graph normalises images and computes probabilities as the manifest says
self_consistency  the results that the manifest records do not contradict each other or the graph
edge              the files for devices, by their hashes
run               the order of the checks: if the bytes are wrong, their contents are not checked
"""
