"""Configuration, checkpoints, the training loop and what records it."""

from utils.base.interrupts import end_quietly_on_interrupt, is_command

if is_command():
    end_quietly_on_interrupt()

from utils.base.packages import require_packages

require_packages()
