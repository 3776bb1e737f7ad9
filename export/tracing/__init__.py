"""Runs the network in PyTorch and records the output of every layer."""
