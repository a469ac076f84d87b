"""The AVE data set: its files, its labels, and batches of its features."""

from utils.packages import require_packages

require_packages()
