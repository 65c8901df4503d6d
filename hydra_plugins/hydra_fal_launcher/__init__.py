"""A Hydra launcher that generates all the videos of a sweep at once."""
