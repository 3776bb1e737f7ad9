"""What a network has learned to look at, asked with weights, gradients and shifts.

responses.py   what one layer gives, with or without gradients
shifts.py      does a layer's response move with the image?
saliency.py    which pixels a unit responds to
ascent.py      an image that a unit would like best
patches.py     the places in real images that a channel likes best
filters.py     the first layer's weights as an image
"""
