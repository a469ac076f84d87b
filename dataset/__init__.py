"""The AVE data set: its files, its labels, and batches of its features."""
