"""Loads models, runs them, and selects the versions in service."""
