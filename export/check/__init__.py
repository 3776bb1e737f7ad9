"""Verifies a written model again, from its files alone: without PyTorch, and without the code that wrote it.

subject    what stands on disk: a version's folder, its manifest, its config, its model
files      bytes: the manifest's own hash, each file's hash, no file missing, none too many, no path of a machine
promises   words: file, manifest and config.pbtxt say the same of opset, tensors, labels and images
layers     the layer map: the same in both, and nothing that the graph's own names contradict
numbers    what runs: the shapes of all values at two batch sizes
test_data  the outputs for the test data, within a tolerance that an export can have written
frame      what the graph makes of images and of logits: the promised rule and head
record     what the manifest says of the export's own checks: it must not belie itself
edge       the files for devices: every byte
run        the order: where bytes are not the promised ones, nothing is believed that stands in them
"""
