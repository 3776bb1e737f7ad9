"""Datasets by name: built-in, image folders, label tables, torchvision and Hugging Face."""
