"""Evaluation of trained networks: accuracy, calibration, predictions, label errors."""
