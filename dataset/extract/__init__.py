"""From video files to features in the AVE format."""
