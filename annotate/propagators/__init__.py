"""Propagators, one file each: what carries prompts through a clip."""
