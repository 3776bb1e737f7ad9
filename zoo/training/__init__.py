"""Train networks: single runs, cross-validation and the learning rate range test. Start reading at trainer.py."""
