"""The SAM 2 family: a streaming predictor whose memory does not grow with the clip."""
