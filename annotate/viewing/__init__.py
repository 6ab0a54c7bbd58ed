"""Viewing: overlays, contact sheets, prompt grids, and the frames worth a review."""
