"""Model weights: the manifest, the store on disk, and verified downloads."""
