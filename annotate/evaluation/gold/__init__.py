"""Compare models before and after training on a gold set: seal, overlap, bootstrap, report."""
