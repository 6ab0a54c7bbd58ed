"""Masks of the point page: the engine, its thread, and what it has found so far."""
