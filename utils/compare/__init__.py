"""Is a difference a difference? Evaluations of the same clips, held against each other."""
