"""The `colour` detector: colour ranges, rectangles and strokes; no weights."""
