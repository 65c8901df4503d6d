"""One request from its submission to its video in the store."""
