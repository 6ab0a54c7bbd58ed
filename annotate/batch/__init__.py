"""One stage over many clips: by processes, by shards, by Ray; each clip exactly once."""
