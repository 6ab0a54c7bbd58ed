"""The trainer `light`: a small head on the trunk that ships, trained with NumPy alone."""
