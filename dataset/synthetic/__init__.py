"""Generated clips in the AVE format."""
