"""Fetching and verifying the AVE files."""
