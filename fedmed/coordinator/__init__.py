"""What the coordinator of a federation runs."""
