"""Detectors, one file each: what proposes boxes."""
