"""The table of whether it is worth joining: a row for each hospital, a column for each arm."""

from __future__ import annotations

from fedmed.report.evidence import Difference, Evidence, change_from
from fedmed.report.reading import Json, Number, number
from fedmed.report.words import listed

_FEW = 6  # hospitals that a sentence names


def table_of(evidence: Evidence | None) -> Json:
    """``arms``, ``rows`` of hospitals, and ``told``, a sentence for arms alike; or nothing."""
    rows = evidence.joining if evidence else []
    arms = list(dict.fromkeys(str(row.get("arm")) for row in rows))
    hospitals = list(dict.fromkeys(str(row.get("hospital")) for row in rows))
    if not rows:
        return {}
    cells = {(str(row.get("hospital")), str(row.get("arm"))): change_from(row) for row in rows}
    images: dict[str, Number] = {
        str(row.get("hospital")): number(row.get("images")) for row in rows
    }
    own: dict[str, dict[str, Number]] = {}
    for row in rows:
        own.setdefault(str(row.get("alone")), {})[str(row.get("hospital"))] = number(
            row.get("before")
        )
    against = {str(row.get("arm")): str(row.get("alone")) for row in rows}
    told: dict[tuple[str, str], list[str]] = {}
    for arm in arms:
        words = _told({h: cells[h, arm] for h in hospitals if (h, arm) in cells})
        told.setdefault((against[arm], words), []).append(arm)
    return {
        "arms": arms,
        "against": [against[arm] for arm in arms],
        "alone": list(own),
        "rows": [
            {
                "hospital": name,
                "images": images[name],
                "alone": [own[arm].get(name) for arm in own],
                "cells": [cells.get((name, arm)) for arm in arms],
            }
            for name in hospitals
        ],
        "told": [
            f"{listed(names)} against {alone}: {words}." for (alone, words), names in told.items()
        ],
    }


def _told(changes: dict[str, Difference]) -> str:
    """For which hospitals an arm is shown to be better or worse than their own model."""
    shown = {name: one for name, one in changes.items() if one.distinguishable}
    better = [name for name, one in shown.items() if (one.change.value or 0.0) > 0.0]
    worse = [name for name in shown if name not in better]
    parts = [f"worth it for {_named(better)}"] if better else []
    parts += [f"worse than alone for {_named(worse)}"] if worse else []
    rest = len(changes) - len(shown)
    if rest:
        which = f"{rest} of {len(changes)}" if shown else f"any of {len(changes)} hospitals"
        parts.append(f"no difference is shown for {which}")
    return ", ".join(parts)


def _named(hospitals: list[str]) -> str:
    return listed(hospitals) if len(hospitals) <= _FEW else f"{len(hospitals)} hospitals"
