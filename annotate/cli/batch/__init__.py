"""The commands for many clips."""
