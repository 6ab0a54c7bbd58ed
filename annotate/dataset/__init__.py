"""Datasets: build, split, compare, export and import."""
