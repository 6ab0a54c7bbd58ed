"""The segmenters: one file each, found by entry point; see `annotate.segment`."""
