"""Label Studio: push frames and clips, pull corrections, run a local server."""
