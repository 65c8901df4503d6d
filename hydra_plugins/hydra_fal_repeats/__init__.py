"""A Hydra sweeper that adds repeats to the levels of a factor whose comparison is still open."""
