"""The server's Flower app, where ``pyproject.toml`` names it."""

from fedmed.coordinator.app import app

__all__ = ["app"]
