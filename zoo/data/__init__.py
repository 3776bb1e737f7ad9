"""Datasets by name: built-in ones, image folders, torchvision and Hugging Face; add a source in registry.py."""
