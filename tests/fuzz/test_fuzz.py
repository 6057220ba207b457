"""A short run of the fuzz; ``make fuzz`` is the long one."""

import os
import re
import subprocess
import sys
from pathlib import Path

INPUTS = 150


def test_bad_inputs_end_with_one_line_and_exit_code_2() -> None:
    """Each input is another kind than its neighbour, so that a short run sees them all."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "fuzz", f"--inputs={INPUTS}", "--seed=13", "--short"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(rf"^{INPUTS} inputs, seed 13", done.stdout, re.MULTILINE)
    assert "faults: none" in done.stdout
