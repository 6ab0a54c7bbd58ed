"""Items: what is known of a frame, in memory and as a journal of JSON lines."""
