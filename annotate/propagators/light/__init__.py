"""The `light` propagator: ridge classifiers on the features of a small network."""
