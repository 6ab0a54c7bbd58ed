"""Search: ask a model, or rank by similarity, which shots show a class."""
