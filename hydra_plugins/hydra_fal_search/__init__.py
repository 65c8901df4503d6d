"""A Hydra sweeper that searches with Optuna's samplers, and goes on where an earlier command was."""
