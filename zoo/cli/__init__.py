"""The command line's verbs for networks: train, tune, eval, describe, compare, models."""
