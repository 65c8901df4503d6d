"""One command from its plan to its results, and what Hydra's jobs and searches call."""
