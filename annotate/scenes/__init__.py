"""Scenes: find which clip, and when, a picture is from."""
