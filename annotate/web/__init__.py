"""Web: local pages in the browser."""
