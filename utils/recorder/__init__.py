"""Looking at run folders."""
