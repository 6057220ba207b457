"""Mechanisms: one step in numbers, noise on images and updates, and where randomness comes from."""
