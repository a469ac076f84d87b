"""The ground floor: what everything else stands on. It imports nothing else of this project."""
