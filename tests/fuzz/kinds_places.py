"""Pipes, devices, links and folders where a file is due, and places that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from fuzz import bases, damage, formats
from fuzz.cases import BAD, EITHER, Case, kind

SHEET = ("sheet.png", "sheet-brightness.png")


@kind("places: read", 8)
def read(rng: Random, folder: Path) -> Case:
    inspect = ["data", "inspect", "mine.toml", "--sheet=sheet.png"]
    what = rng.choice(("experiment", "table", "table.parquet", "table.csv.gz", "images", "weights",
                       "weights.safetensors", "weights.npz", "policy", "sites", "predictions.csv",
                       "predictions.parquet", "baseline", "results", "ledger", "medmnist", "index",
                       "kermany"))  # fmt: skip
    doubtful = ("empty", "folder")
    if what == "experiment":
        path, how = damage.placed(rng, folder / "mine.toml")
        arguments = rng.choice((["run", "mine.toml", "-q"], ["plan", "mine.toml"], inspect))
        arguments = [str(path.relative_to(folder)) if a == "mine.toml" else a for a in arguments]
        expect = EITHER if how == "empty" else BAD
        if how == "empty":
            arguments = ["plan", "mine.toml", "--no-time"]
    elif what.startswith("table"):
        bases.cohort(rng, folder)
        name = what if "." in what else "table.csv"
        (folder / "table.csv").unlink()
        path, how = damage.placed(rng, folder / name)
        text = formats.EXPERIMENT.replace("table.csv", str(path.relative_to(folder)))
        (folder / "mine.toml").write_text(text)
        arguments, expect = inspect, BAD
    elif what == "images":
        bases.cohort(rng, folder)
        path, how = damage.placed(rng, folder / "i.zip")
        text = formats.EXPERIMENT.replace('"images"', f'"{path.relative_to(folder)}"')
        (folder / "mine.toml").write_text(text)
        arguments, expect = inspect, BAD
    elif what.startswith("weights"):
        path, how = damage.placed(rng, folder / (what if "." in what else "weights.pth"))
        (folder / "mine.toml").write_text(
            formats.PHANTOM.replace(
                'name = "resnet9"', f'name = "resnet9"\nweights = "{path.relative_to(folder)}"'
            )
        )
        arguments, expect = ["run", "mine.toml", "-q", "--arm=none"], BAD
    elif what in ("policy", "sites"):
        key = "policies" if what == "policy" else "sites"
        bases.phantom(folder, f'[run]\n{key} = "{folder / "rules"}"\n')
        (folder / "rules").mkdir()
        path, how = damage.placed(rng, folder / "rules" / "hospital-1.toml")
        arguments, expect = ["plan", "mine.toml", "--no-time", "--arm=dp-sgd"], BAD
        doubtful = ("empty", "absent", "long", "through", "dangling", "loop", "itself")
    elif what.startswith("predictions") or what == "baseline":
        suffix = ".csv" if what.endswith("csv") else ".parquet"
        path, how = damage.placed(rng, folder / f"p{suffix}")
        (folder / "q.parquet").write_bytes(formats.parquet(formats.scores(rng)))
        arguments = ["evaluate", str(path.relative_to(folder)), "--resamples=50"]
        if what == "baseline":
            arguments = ["evaluate", "q.parquet", "--baseline", str(path.relative_to(folder)),
                         "--resamples=50"]  # fmt: skip
        expect, doubtful = BAD, ()
    elif what == "results":
        path, how = damage.placed(rng, folder / "runs")
        arguments = [rng.choice(("report", "evaluate")), str(path.relative_to(folder))]
        expect = BAD
    elif what == "ledger":
        path, how = damage.placed(rng, folder / "l.sqlite")
        arguments = [
            "ledger",
            rng.choice(("show", "verify", "export")),
            str(path.relative_to(folder)),
        ]
        return Case(arguments=arguments, expect=EITHER, codes=(1,), note=f"{what}: {how}")
    elif what == "kermany":
        path, how = damage.placed(rng, folder / "chest.zip")
        (folder / "mine.toml").write_text(
            f'arms = ["none"]\n[data]\nsource = "kermany"\npath = "{path.relative_to(folder)}"\n'
        )
        arguments, expect = inspect, BAD
    else:
        (folder / "set.npz").write_bytes(formats.medmnist(rng))
        name = "set.npz" if what == "medmnist" else "index.csv"
        path, how = damage.placed(rng, folder / name)
        text = 'arms = ["none"]\n[data]\nsource = "medmnist"\npath = "set.npz"\n'
        text += 'unknown-patients = "separate"\n'
        text += f'index = "{path.relative_to(folder)}"\n' if what == "index" else ""
        (folder / "mine.toml").write_text(text.replace('"set.npz"', f'"{path.relative_to(folder)}"')
                                          if what == "medmnist" else text)  # fmt: skip
        arguments, expect = inspect, BAD
    if how in doubtful and expect == BAD:
        expect = EITHER
    # A plan that cannot be says why on standard output, arm by arm.
    told = expect == BAD and what not in ("policy", "sites")
    named = (path.name[:100], path.parent.name, "model.weights", "data.images", "/dev/", "/proc/")
    return Case(arguments=arguments, expect=expect, writes=SHEET,
                names=named if told else (), note=f"{what}: {how}")  # fmt: skip


@kind("places: written", 6)
def written(rng: Random, folder: Path) -> Case:
    place = rng.choice((".", "..", "/proc/x", "/proc/self/x", "/proc", "/sys/x", "/", "/dev/null",
                        "/dev/full", "/dev/null/x", "file", "file/x", "n" * 300, "dir", "fifo",
                        "loop", "dangling", "dangling/x", "deep/" * 60 + "x", "sp ace/\x1b[31m",
                        "a/" + "b" * 260 + "/c", "x" * 5000, "~nobody-such/x"))  # fmt: skip
    (folder / "file").write_text("kept")
    (folder / "dir").mkdir()
    (folder / "dir" / "kept").write_text("kept")
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    what = rng.choice(("run", "sheet", "evaluate", "export", "certs", "init", "plan"))
    if place in ("..", "/", "/dev/null", "/dev/full") and what not in ("run", "plan"):
        place = "/proc/x"  # a fault there would harm the machine
    if what == "run":
        bases.cohort(rng, folder)
        # A folder that can be taken would be trained into: one that cannot read its images stops.
        (folder / "images" / "03.png").write_bytes(b"damaged")
        arguments = ["run", "mine.toml", "-q", f"--out={place}"]
        return Case(arguments=arguments, expect=BAD, note=f"{what}: {place[:40]!r}")
    if what == "plan":
        bases.phantom(folder)
        arguments = ["plan", "mine.toml", "--no-time", f"--out={place}"]
    elif what == "sheet":
        bases.cohort(rng, folder)
        arguments = ["data", "inspect", "mine.toml", f"--sheet={place}"]
    elif what == "evaluate":
        (folder / "p.parquet").write_bytes(formats.parquet(formats.scores(rng)))
        arguments = ["evaluate", "p.parquet", "--resamples=50", f"--out={place}"]
    elif what == "export":
        bases.ledgers(folder)
        arguments = ["ledger", "export", "ledgers", f"--out={place}"]
    elif what == "certs":
        arguments = ["site", "certs", place, "--host=a.example"]
    else:
        bases.cohort(rng, folder)
        arguments = ["site", "init", place, "--name=a", "--server=a.example:9092",
                     "--data=table.csv", "--images=images"]  # fmt: skip
    impossible = ("/proc", "/sys", "/dev/null/x", "file/x", "n" * 300, "x" * 5000, "a/")
    expect = BAD if place.startswith(impossible) and what != "plan" else EITHER
    return Case(arguments=arguments, expect=expect, writes=("*",) if expect == EITHER else (),
                note=f"{what}: {place[:40]!r}")  # fmt: skip


_ = damage
