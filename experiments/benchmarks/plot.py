"""Draw the recorded results of ``dpsgd.py``, and print them as a Markdown table.

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

COLOURS = {
    "sgd": "#555555",
    "fedmed": "#0072b2",
    "opacus": "#d55e00",
    "opacus-ghost": "#cc79a7",
    "loop": "#009e73",
}
NAMES = {
    "sgd": "plain SGD",
    "fedmed": "fedmed",
    "opacus": "Opacus hooks",
    "opacus-ghost": "Opacus ghost",
    "loop": "loop",
}


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


def table(results: list[dict[str, Any]]) -> str:
    """One row per size and engine."""
    lines = [
        "| px | engine | images/s | step, ms (quartiles) | of SGD's throughput "
        "| with noise and step | peak, GB | of SGD's | error, float32 | error, float64 "
        "| rounds (left out) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in sorted(results, key=lambda result: int(result["size"])):
        for entry in result["engines"]:
            low, high = (1e3 * value for value in entry["step_seconds_quartiles"])
            errors = [
                "" if entry[key] is None else f"{entry[key]:.0e}"
                for key in ("max_relative_error", "max_relative_error_float64")
            ]
            cells = [
                str(result["size"]),
                NAMES[entry["engine"]],
                f"{entry['images_per_second']:.0f}",
                f"{1e3 * entry['step_seconds']:.0f} ({low:.0f}-{high:.0f})",
                f"{entry['throughput_ratio']:.2f}",
                f"{entry['private_step_ratio']:.2f}",
                f"{entry['peak_memory_bytes'] / 1e9:.2f}",
                f"{entry['memory_ratio']:.2f}",
                *errors,
                f"{result['rounds']} ({result['rounds_left_out']})",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read the files that are named, write one SVG, print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="JSON files of dpsgd.py")
    parser.add_argument("--out", type=Path, required=True, help="the SVG to write")
    arguments = parser.parse_args()
    results = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.results]
    draw(results, arguments.out)
    print(table(results))


if __name__ == "__main__":
    main()
