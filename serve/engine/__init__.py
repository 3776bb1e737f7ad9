"""Loads models, runs them, and decides which of them are in service."""
