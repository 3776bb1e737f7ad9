"""Builds smaller, faster or static-shape variants of an exported model, measures each, and accepts or rejects it.

settings                       which variants, and the bounds on accuracy and speed
eval_data                      the images for calibration and evaluation
int8, fp16, static_shape, ort  one module per variant: how it is built
measure, latency, memory       accuracy, SQNR by layer, size, latency and memory beside fp32, on the same images
acceptance                     accepted or rejected, with the reasons
write, report                  the files of accepted variants; the measurements of all
runner                         all steps, in order
"""
