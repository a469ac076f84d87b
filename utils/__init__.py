"""Configuration, checkpoints, the training loop and what records it."""

from utils.base.packages import require_packages

require_packages()
