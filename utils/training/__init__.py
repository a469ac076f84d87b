"""A run: the loop, its state, its folder, and going on after a stop."""
