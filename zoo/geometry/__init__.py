"""Sizes, strides, receptive fields and costs of every layer of a network, from its graph alone: no image is computed.

graph.py    which operations a network consists of, in order, and which module called each
values.py   what is known of a tensor: its sizes, and which part of the image each of its units sees
rules/      one rule an operation: from what is known of its inputs to what is known of its output
sizes.py    the arithmetic of sliding windows        costs.py   parameters and multiply-accumulates
measure.py  all of it for a network, layer by layer
"""
