"""Loads models, runs them and manages their life cycle. Knows no transport."""
