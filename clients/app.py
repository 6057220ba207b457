"""The hospital's Flower app, where ``pyproject.toml`` names it."""

from fedmed.hospital.app import app

__all__ = ["app"]
