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
INCH: Final = 300  # dots of a journal's PNG, of which a drawing of 400 pixels has 5.6 inches
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
    # The processes need vl-convert alone.
    from fedmed.report import script as cache

    script = cache.kept(VERSION)
    processes = min(_MOST, os.cpu_count() or 1)
    with ThreadPoolExecutor(1) as pool:
        bundling = pool.submit(_ask, {"script": True}) if script is None else None
        # Vega is slow until it is warm, so that with two processors one process draws everything.
        drawers = max(1, processes - 1)
        texts = _shared("specifications", specifications, drawers, replaced=replaced)
        pictures = _shared("papers", [paper for _, paper in texts], processes)
    drawings = [
        Drawing(svg, paper, base64.b64decode(picture))
        for (svg, paper), picture in zip(texts, pictures, strict=True)
    ]
    if bundling is not None:
        script = str(bundling.result())
        cache.keep(VERSION, script)
    return script or "", drawings


def prints(papers: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """Each drawing for a journal: as PDF, and as PNG of :data:`INCH` dots per inch.

    `papers` are SVGs without CSS variables, whose pixels are points (1/72 inch). Raises
    RuntimeError as :func:`render`.
    """
    if not papers:
        return []
    told = _shared("prints", papers, min(_MOST, os.cpu_count() or 1))
    return [(base64.b64decode(pdf), base64.b64decode(png)) for pdf, png in told]


def _shared(kind: str, items: Sequence[Any], processes: int, **others: Any) -> list[Any]:
    """The answers for `items`, in their order, from so many processes."""
    # Neighbours are alike: every n-th one makes shares of about the same size.
    count = min(processes, len(items))
    jobs = [{kind: list(items[first::count]), **others} for first in range(count)]
    answers: list[Any] = [None] * len(items)
    with ThreadPoolExecutor(count) as pool:
        for first, answer in enumerate(pool.map(_ask, jobs)):
            answers[first::count] = answer
    return answers


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
    if "papers" in job:
        pictures = [vl_convert.svg_to_png(paper, scale=_SCALE) for paper in job["papers"]]
        return [base64.b64encode(picture).decode("ascii") for picture in pictures]
    if "prints" in job:
        both = [
            (vl_convert.svg_to_pdf(paper), vl_convert.svg_to_png(paper, ppi=INCH))
            for paper in job["prints"]
        ]
        return [[base64.b64encode(file).decode("ascii") for file in files] for files in both]
    drawn = []
    for specification in job["specifications"]:
        svg = vl_convert.vegalite_to_svg(specification, vl_version=VERSION)
        paper = svg
        for text, other in job["replaced"].items():
            paper = paper.replace(text, other)
        drawn.append((svg, paper))
    return drawn


if __name__ == "__main__":
    json.dump(_work(json.loads(sys.stdin.buffer.read())), sys.stdout)
