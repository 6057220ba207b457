"""Predictions tables: read, checked, laid side by side, and cut into groups."""
