"""Configuration, checkpoints, the training loop and what records it."""

from utils.packages import require_packages

require_packages()
