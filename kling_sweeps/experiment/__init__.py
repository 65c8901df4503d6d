"""What was asked for: settings and cells, read from Hydra's configs, and the request of each."""
