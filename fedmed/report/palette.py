"""Colours and shapes of the page and of its figures, for light and dark.

A figure names a colour as a CSS variable, so that the same drawing follows the page's theme;
files beside the page get the light theme's values instead.
"""

from __future__ import annotations

from typing import Final

# Text on its ground has a contrast of 4.5 or more, marks of 3 or more (WCAG 2.2, AA).
LIGHT: Final = {
    "page": "#f6f7f9",
    "card": "#ffffff",
    "ink": "#1b232c",
    "muted": "#55606c",
    "line": "#dde3e9",
    "grid": "#e6eaee",
    "accent": "#1a6480",
    "soft": "#edf5f8",
    "warn": "#7d4400",
    "warn-soft": "#fff4e3",
    "good": "#0f6a55",
    "good-soft": "#e8f5f1",
    "arm-1": "#4f6175",
    "arm-2": "#b25c00",
    "arm-3": "#0d7a64",
    "arm-4": "#7546b3",
    "arm-5": "#b5315a",
    "arm-6": "#2465b8",
    "arm-7": "#66761a",
    "arm-8": "#8a5340",
}
DARK: Final = {
    "page": "#11161c",
    "card": "#192027",
    "ink": "#e7ecf1",
    "muted": "#a3afbb",
    "line": "#2e3843",
    "grid": "#29323c",
    "accent": "#74c0da",
    "soft": "#1a2a33",
    "warn": "#f0ba6c",
    "warn-soft": "#2f2519",
    "good": "#5ccbae",
    "good-soft": "#17302a",
    "arm-1": "#a5b6c8",
    "arm-2": "#f0a24a",
    "arm-3": "#45c4a5",
    "arm-4": "#b99bf0",
    "arm-5": "#ee89a6",
    "arm-6": "#7fb0f5",
    "arm-7": "#bccb62",
    "arm-8": "#d6a48f",
}
SHAPES: Final = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down")
_ARMS: Final = 8


def var(name: str) -> str:
    """A colour as figures name it."""
    return f"var(--{name})"


def arm_colour(number: int) -> str:
    """The colour of the arm at this place, the same in every figure."""
    return var(f"arm-{number % _ARMS + 1}")


def arm_shape(number: int) -> str:
    """The shape that tells the arm apart without its colour."""
    return SHAPES[number % len(SHAPES)]


def declarations(theme: dict[str, str]) -> str:
    """A theme as CSS declarations."""
    return " ".join(f"--{name}: {value};" for name, value in theme.items())
