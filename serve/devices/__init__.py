"""What this machine offers: CUDA libraries and free memory."""
