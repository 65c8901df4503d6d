"""Measuring videos: one pass for all metrics, worker processes, what is saved."""
