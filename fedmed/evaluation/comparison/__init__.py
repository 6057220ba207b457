"""Arms against a baseline on the same test images."""
