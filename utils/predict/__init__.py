"""Timelines of video files."""
