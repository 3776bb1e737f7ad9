"""Training runs on disk: checkpoints, loading, and the options that describe a run on the command line."""
