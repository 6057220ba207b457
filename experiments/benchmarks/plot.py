"""Draw the recorded results of ``dpsgd.py``: ratios and peaks by image size.

    python -m experiments.benchmarks.plot experiments/benchmarks/results/*.json --out dpsgd.svg

Needs matplotlib.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

COLOURS = {"sgd": "#555555", "fedmed": "#0072b2", "opacus": "#d55e00", "loop": "#009e73"}
NAMES = {"sgd": "plain SGD", "fedmed": "fedmed", "opacus": "Opacus hooks", "loop": "loop"}


def draw(results: list[dict[str, Any]], out: Path) -> None:
    """Two panels: share of plain SGD's throughput, and peak memory, against the image size."""
    results = sorted(results, key=lambda result: int(result["size"]))
    figure, (speed, memory) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name in dict.fromkeys(e["engine"] for result in results for e in result["engines"]):
        points = [
            (result["size"], entry)
            for result in results
            for entry in result["engines"]
            if entry["engine"] == name
        ]
        sizes = [str(size) for size, _ in points]
        style = {"color": COLOURS[name], "label": NAMES[name], "marker": "o"}
        speed.plot(sizes, [entry["throughput_ratio"] for _, entry in points], **style)
        memory.plot(sizes, [entry["peak_memory_bytes"] / 1e9 for _, entry in points], **style)
    speed.set(ylabel="throughput, share of plain SGD", ylim=(0, 1.1))
    memory.set(ylabel="peak memory of the process, GB", ylim=(0, None))
    for panel in (speed, memory):
        panel.set_xlabel("image size, pixels")
        panel.grid(alpha=0.3)
    speed.legend(loc="center right")
    first = results[0]
    figure.suptitle(
        f"ResNet-18, batch {first['batch']}, {first['precision']}, {first['device']}", fontsize=10
    )
    # No date and no random ids: the same results give the same file.
    with pyplot.rc_context({"svg.hashsalt": "fedmed"}):
        figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Read the files that are named and write one SVG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="JSON files of dpsgd.py")
    parser.add_argument("--out", type=Path, required=True, help="the SVG to write")
    arguments = parser.parse_args()
    results = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.results]
    draw(results, arguments.out)


if __name__ == "__main__":
    main()
