"""Builds smaller, faster or static-shape variants of an exported model, measures them, and accepts or rejects them.

settings                       which variants, and the bounds on accuracy and speed
eval_data                      the images for calibration and evaluation
int8, fp16, static_shape, ort  build one variant each
measure, latency, memory       accuracy, SQNR by layer, size, latency and memory, compared with fp32 on the same images
acceptance                     accepts or rejects a variant, with the reasons
write, report                  the files of accepted variants; the measurements of all variants
runner                         runs all steps in order
"""
