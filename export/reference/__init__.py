"""The reference: PyTorch's results in float32 and float64, and the tolerance derived from them."""
