"""The page of point prompts: click, see the mask, propagate, correct."""
