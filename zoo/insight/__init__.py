"""What a network responds to, measured with its weights, gradients and shifted images.

responses.py   the output of one layer, with or without gradients
shifts.py      how far a layer is from shift equivariance
saliency.py    the gradient of a unit with respect to the image
ascent.py      images that maximise a unit's response
patches.py     the parts of real images to which a channel responds most
filters.py     the first layer's weights as an image
"""
