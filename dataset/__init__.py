"""The AVE data set: its files, its labels, and batches of its features."""

import utils  # noqa: F401 - looks, before anything else is imported, whether the packages are there
