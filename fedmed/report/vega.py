"""Vega, run by vl-convert in processes of its own: drawings, and the script for the page.

Bundling the script and drawing take a second or two each and hold Python's lock, so they run beside
each other. The processes see no fonts but the one in vl-convert: a figure is then the same on every
machine, and text is several times quicker to draw. This file is also the program they run.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import vl_convert

VERSION: Final = "6.4"  # of Vega-Lite, for the page and for the files beside it
_SCALE: Final = 2.0  # pixels of a PNG per pixel of the drawing: 200 dots per inch at 4 inches
_MOST: Final = 4  # processes
_NO_FONTS: Final = "<fontconfig><dir>/nonexistent</dir></fontconfig>"
_KNOWN: Final = 0x0530  # vl-convert's own font has Latin, Greek and Cyrillic letters


class Drawing(NamedTuple):
    """One specification drawn: as SVG, as SVG with `replaced` texts, and that as PNG."""

    svg: str
    paper: str
    png: bytes


def render(
    specifications: Sequence[dict[str, Any]], replaced: dict[str, str]
) -> tuple[str, list[Drawing]]:
    """The script of Vega, Vega-Lite and Vega-Embed, and every specification drawn.

    `replaced` maps texts of the SVG to what stands for them in the files. Raises RuntimeError with
    vl-convert's words where a specification cannot be drawn.
    """
    if not specifications:
        return "", []
    workers = max(1, min(_MOST, (os.cpu_count() or 1) - 1, len(specifications)))
    # Neighbours are alike: every n-th one makes shares of about the same size.
    shares = [list(range(first, len(specifications), workers)) for first in range(workers)]
    jobs: list[dict[str, Any]] = [{"script": True}]
    jobs += [
        {"specifications": [specifications[i] for i in share], "replaced": replaced}
        for share in shares
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        script, *drawn = pool.map(_ask, jobs)
    found: dict[int, Drawing] = {}
    for share, answers in zip(shares, drawn, strict=True):
        for place, one in zip(share, answers, strict=True):
            found[place] = Drawing(one["svg"], one["paper"], base64.b64decode(one["png"]))
    return script, [found[place] for place in range(len(specifications))]


def _ask(job: dict[str, Any]) -> Any:
    """Let a process of its own do a job."""
    text = json.dumps(job, ensure_ascii=False)
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        if all(ord(letter) < _KNOWN or 0x2000 <= ord(letter) < 0x2300 for letter in text):
            fonts = Path(folder) / "fonts.conf"
            fonts.write_text(_NO_FONTS, encoding="utf-8")
            environment["FONTCONFIG_FILE"] = str(fonts)
        done = subprocess.run(
            [sys.executable, "-P", __file__],
            input=text.encode(),
            capture_output=True,
            env=environment,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"a figure cannot be drawn: {done.stderr.decode(errors='replace')}")
    return json.loads(done.stdout)


def _work(job: dict[str, Any]) -> Any:
    if job.get("script"):
        return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VERSION)
    drawn = []
    for specification in job["specifications"]:
        svg = vl_convert.vegalite_to_svg(specification, vl_version=VERSION)
        paper = svg
        for text, other in job["replaced"].items():
            paper = paper.replace(text, other)
        png = vl_convert.svg_to_png(paper, scale=_SCALE)
        drawn.append({"svg": svg, "paper": paper, "png": base64.b64encode(png).decode("ascii")})
    return drawn


if __name__ == "__main__":
    json.dump(_work(json.loads(sys.stdin.buffer.read())), sys.stdout)
