"""Shared-memory regions, in system memory and in GPU memory."""
