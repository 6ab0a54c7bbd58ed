"""Formats, one file each: what other programs read."""
