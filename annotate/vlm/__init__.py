"""Vision-language models: requests, answers, coordinates, retries and cost."""
