"""A checkpoint on a split: predictions, metrics, and the files that they leave."""
