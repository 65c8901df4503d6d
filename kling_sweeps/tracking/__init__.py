"""What MLflow is told, and what it knows already."""
