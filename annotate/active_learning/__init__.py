"""Choose the frames and labels that are most worth a person's time."""
