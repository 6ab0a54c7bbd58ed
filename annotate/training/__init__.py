"""Fine-tune a detector on a dataset, and record where its weights come from."""
