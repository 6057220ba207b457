"""What ``import fedmed`` offers beyond its parts: comparisons and forecasts of them, as objects."""
