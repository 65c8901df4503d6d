"""The folders that keep generations and measurements, their journals, and the result of a run."""
