"""Smaller, faster or fixed forms of an exported model, each measured beside it and kept only within bounds.

plan      what is asked for and the images to judge it by, before anything is written
int8, fp16, fixed, ort     one file a variant: how it is made
measure   accuracy, SQNR by layer, size, latency and memory beside fp32, in one run
bounds    what is kept and what is refused, and why
make      the whole way, in order
"""
