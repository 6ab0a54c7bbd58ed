"""Propagators: what carries prompts through a clip as masks."""
