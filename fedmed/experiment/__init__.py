"""A comparison: its file, its runs and their directories, and what they would cost."""
