"""Many runs, configs x seeds, and the table of their results."""
