"""The footage map: frames laid out by similarity."""
