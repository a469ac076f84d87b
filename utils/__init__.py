"""Configuration, checkpoints, the training loop and what records it."""
