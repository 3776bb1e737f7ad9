"""Evaluates trained networks: accuracy, calibration, predictions, label errors."""
