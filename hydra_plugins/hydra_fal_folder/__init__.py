"""The user's own folder of configs, before the package's."""
