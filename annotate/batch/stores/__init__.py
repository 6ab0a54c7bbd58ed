"""Where the results of a batch go: a folder, or a place in an object store."""
