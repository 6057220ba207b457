"""A comparison of which nobody wants to hear."""

from typing import Any


class Silent:
    """Says nothing."""

    def preparing(self, what: str) -> None:
        """Nothing."""

    def note(self, what: str) -> None:
        """Nothing."""

    def started(self, arm: str, seed: int, rounds: int) -> None:
        """Nothing."""

    def round(self, number: int, rounds: int, auroc: float | None) -> None:
        """Nothing."""

    def finished(self, arm: str, seed: int, result: dict[str, Any], cached: bool) -> None:
        """Nothing."""
