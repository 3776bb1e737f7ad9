"""Sizes, strides, receptive fields and costs of each layer, computed from the network's graph, without data.

graph.py    the network's operations in order, and the module call that contains each
values.py   symbolic tensors: their sizes, and the part of the image that each unit sees
rules/      one rule per operation: the symbolic output for given symbolic inputs
joining.py  union of receptive fields, broadcasting and reshaping of symbolic tensors
fields.py   receptive fields in pixels, per layer and image axis
sizes.py    sliding-window arithmetic                costs.py   parameters and multiply-accumulates
measure.py  all of it for a network, layer by layer  input_size.py   parsing of C,H,W
"""
