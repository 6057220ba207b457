"""What stands beside every recorded figure: the day, the machine and the versions."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fedmed


def record(path: Path, told: dict[str, Any]) -> None:
    """Write what was measured as JSON, with its surroundings."""
    around = {
        "date": datetime.now(UTC).date().isoformat(),
        "processors": os.cpu_count(),
        "versions": {
            **{name: version(name) for name in ("numpy", "torch", "flwr")},
            "fedmed": fedmed.__version__,
            "python": platform.python_version(),
        },
    }
    path.write_text(json.dumps({**told, **around}, indent=1) + "\n", encoding="utf-8")
