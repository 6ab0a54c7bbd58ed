"""Detectors: what proposes boxes on a frame."""
