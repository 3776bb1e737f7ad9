"""The reference: what PyTorch computes, in float32 and float64, and the tolerance that follows from it."""
