"""Verifies a written model again, from its files alone: without PyTorch, and without the code that wrote it.

subject    what stands on disk: a version's folder, its manifest, its config, its model
files      bytes: the manifest's own hash, each file's hash, no file missing, none too many, no path of a machine
promises   words: file, manifest and config.pbtxt say the same of opset, tensors, labels, pictures and layers
numbers    what runs: the shapes of all values at two batch sizes, the test data's outputs
edge       the files for devices: every byte
run        the order: where bytes are not the promised ones, nothing is believed that stands in them
"""
