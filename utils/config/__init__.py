"""Settings: JSON files and flags into typed values."""
