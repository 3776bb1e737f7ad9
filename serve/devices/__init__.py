"""Properties of this machine: CUDA libraries and available memory."""
