"""Properties of this machine: CUDA libraries and free memory."""
