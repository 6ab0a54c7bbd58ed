"""Sampling: choose frames worth having, and drop blurred, blank and duplicate ones."""
