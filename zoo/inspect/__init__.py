"""Describes and compares networks without training them."""
