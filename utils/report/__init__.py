"""One page to look at an evaluation."""
