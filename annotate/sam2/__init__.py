"""The SAM 2 family: a streaming predictor with memory that does not grow with the clip."""
