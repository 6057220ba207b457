"""The ``fedmed`` command."""

from fedmed.cli.commands import main

__all__ = ["main"]
