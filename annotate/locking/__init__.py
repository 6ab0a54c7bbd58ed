"""Locks of outputs: a second run on the same output is refused."""
