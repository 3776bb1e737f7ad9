"""Training runs on disk: atomic file writes, checkpoints, loading."""
