"""A comparison: arms x seeds on the same hospitals, each in a run directory of its own."""

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.base.holding import NAME as IN_USE
from fedmed.base.holding import held
from fedmed.base.opening import absolute, is_folder, present
from fedmed.base.paths import NAMED_WEIGHTS
from fedmed.config import Settings
from fedmed.data.brightness import findings, tabled
from fedmed.data.form import Form, central_slices
from fedmed.data.network import evaluation_shard, held_out_shard, load_network, member_names
from fedmed.evaluation.comparison import compare
from fedmed.experiment import decomposing, pretraining
from fedmed.experiment.directory import RunDirectory
from fedmed.experiment.file import Experiment, is_list_of
from fedmed.federation.members import make_plans, member_shard
from fedmed.models import build
from fedmed.privacy.mechanisms.images import ImageMechanism
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans.evaluation import evaluation_cap
from fedmed.privacy.plans.making import image_mechanism
from fedmed.privacy.statement import contents as statement_module
from fedmed.privacy.statement import whole
from fedmed.privacy.statement.totals import totals
from fedmed.site.own_settings import check_sites

SAMPLES = 6  # images shown in the report, before and after noise


class Progress(Protocol):
    """Who wants to hear how a comparison goes."""

    def preparing(self, what: str) -> None:
        """Something that is neither an arm nor a round is being done."""

    def note(self, what: str) -> None:
        """Something that the user should look at, and that stops nothing."""

    def started(self, arm: str, seed: int, rounds: int) -> None:
        """A run begins (or resumes)."""

    def round(self, number: int, rounds: int, auroc: float | None) -> None:
        """A round of the present run was evaluated."""

    def finished(self, arm: str, seed: int, result: dict[str, Any], cached: bool) -> None:
        """A run has its result; ``cached`` where it had it before."""


Launch = Callable[[Settings, Path, str, Callable[[int, int, float | None], None]], dict[str, Any]]


def run_experiment(
    experiment: Experiment, out: Path, launch: Launch, progress: Progress
) -> list[dict[str, Any]]:
    """Run every arm and seed that has no result yet, then return all results.

    ``launch(settings, folder, name, on_round)`` runs one. Everything that can be wrong with data or
    plans is found before the first one trains. Raises :class:`UserError` or
    :class:`RunError`; results of earlier runs stay as they are. Another process that
    runs in ``out`` is a :class:`UserError`.
    """
    with held(out):
        return _run_all(experiment, out, launch, progress)


def _run_all(
    experiment: Experiment, out: Path, launch: Launch, progress: Progress
) -> list[dict[str, Any]]:
    _open(experiment, out)
    _check_earlier(experiment, out)
    progress.preparing("reading the cohort and preparing shards")
    check(experiment)
    for line in odd_pictures(experiment):
        progress.note(line)
    _describe(experiment, out)
    if experiment.pretrain is not None:
        cohort = load_network(experiment.pretrain.data).cohort.name
        progress.preparing(f"pretraining on {cohort}, without privacy")
        launch(experiment.pretrain, out / pretraining.FOLDER, pretraining.FOLDER, _silent)
    results = []
    for arm in experiment.arms:
        for seed in experiment.seeds:
            settings = _placed(experiment.settings(arm, seed), out)
            folder = out / arm / f"seed-{seed}"
            cached = (folder / "result.json").is_file()
            progress.started(arm, seed, settings.train.rounds)
            result = launch(settings, folder, arm, progress.round)
            progress.finished(arm, seed, result, cached)
            results.append(result)
            write_totals(out)
    progress.preparing("comparing the arms")
    try:
        compare.write(out)
    except UserError as error:  # an earlier run's damaged file, say: these results stand
        progress.preparing(f"no comparison of arms: {error}")
    progress.preparing("writing samples and the report")
    write_samples(experiment, out)
    return results


def _silent(number: int, rounds: int, auroc: float | None) -> None:
    """Nobody hears of the rounds of a pretraining."""


def _placed(settings: Settings, out: Path) -> Settings:
    """With the ledgers that all arms and seeds share, as they touch the same patients."""
    places: dict[str, Any] = {}
    if not settings.run.ledgers:
        places["run.ledgers"] = str(absolute(out / "ledgers"))
    if settings.model.weights == "pretrain":
        weights = out / pretraining.FOLDER / "model.safetensors"
        places["run.pretrained"] = str(absolute(weights))
    return settings.replaced(places)


def write_totals(out: Path) -> None:
    """Put the total over all finished runs of a comparison into each run's statement.

    ``privacy-total.json`` has it too, with what it guarantees. The name ``privacy.json`` is a run's
    own: one that an earlier version wrote for the comparison is out of date, and removed.
    """
    statements = {}
    absent = []
    for folder in sorted(path.parent for path in out.glob("*/seed-*/config.json")):
        name = f"{folder.parent.name}/{folder.name}"
        absent.append(name)
        if (folder / "result.json").is_file():
            # A statement that is damaged is not counted here, and named by the report.
            with contextlib.suppress(UserError, ValueError):
                value = files.read_json(folder / "privacy.json")
                statement_module.check(value)
                statements[name] = (folder / "privacy.json", value)
                absent.pop()
    record = out / "experiment.json"
    extended = bool(earlier_runs(record).get("extended"))
    values = {name: value for name, (_, value) in statements.items()}
    sums = totals(values, not_counted=absent, extended=extended)
    added = [total.model_dump() for total in sums]
    for path, value in statements.values():
        if value["total"] != added:
            files.write_json(path, {**value, "total": added})
    files.write_json(out / whole.FILE, whole.whole(sorted(statements), sums))
    (out / "privacy.json").unlink(missing_ok=True)


def check(experiment: Experiment) -> None:
    """Make every shard and plan once; raises :class:`UserError` before anything is trained."""
    if experiment.pretrain is not None:
        held_out_shard(experiment.pretrain.data)
        make_plans(experiment.pretrain)
    if experiment.base.evaluation.where != "hospitals":
        held_out_shard(experiment.base.data)
    for model, size, dimensions in dict.fromkeys(
        (s.model, s.data.image_size, s.data.dimensions) for s in experiment.arms.values()
    ):
        packed = model.features == "efficientnet_lite0"
        if packed or model.weights not in NAMED_WEIGHTS:  # which may be downloads
            build(model, size, 0, dimensions=dimensions)
    for settings in experiment.arms.values():
        make_plans(settings)
        check_sites(settings, member_names(settings))
        for member in member_names(settings):
            if not settings.data.site_names:  # whose images are elsewhere
                member_shard(settings, member)  # a damaged image is found now
            if settings.evaluation.where != "server":
                evaluation_shard(settings.data, member, evaluation_cap(settings))


def odd_pictures(experiment: Experiment) -> list[str]:
    """What looks wrong with the pictures in the shards that :func:`check` made, and in which.

    For who runs the comparison alone: no result or report may hold it, as no epsilon covers it.
    """
    base = experiment.base
    if base.data.site_names:  # whose images are elsewhere
        return []
    network = load_network(base.data)
    hospital = dict(zip(network.cohort.table["image"], network.hospital, strict=True))
    shards = [member_shard(s, m) for s in experiment.arms.values() for m in member_names(s)]
    if base.evaluation.where != "hospitals":
        shards.append(held_out_shard(base.data)[0])
    tables = []
    for shard in shards:
        if shard.measures is not None:
            names = shard.table["image"]
            tables.append(tabled(names, names.map(hospital), shard.measures))
    pictures = pd.concat(tables).drop_duplicates("image")
    return findings(pictures, not Form.of(base.data).volumes)


def earlier_runs(record: Path) -> dict[str, Any]:
    """``experiment.json`` with lists of arms, seeds and runs and a table of settings.

    They are empty where there is none; one that is of another kind raises :class:`UserError`.
    """
    stored = files.read_object(record) if record.exists() else {}
    told: dict[str, Any] = {"arms": [], "seeds": [], "runs": [], "base": {}}
    told |= {"decompose": {}, **stored}
    pairs = is_list_of(told["runs"], list) and all(
        len(run) == 2 and isinstance(run[0], str) and is_list_of(run[1:], int)
        for run in told["runs"]
    )
    between = told["decompose"]
    names = is_list_of(told["arms"], str) and isinstance(between, dict)
    names = names and all(is_list_of(one, str) for one in between.values())
    lists = names and is_list_of(told["seeds"], int) and pairs
    if not lists or not isinstance(told["base"], dict):
        raise UserError(
            f"{record} is damaged: arms, seeds, runs, decompose or base are of another kind; "
            "restore it, or choose another --out"
        )
    return told


def _open(experiment: Experiment, out: Path) -> None:
    """Refuse a folder that belongs to something else."""
    record = out / "experiment.json"
    if present(record):
        theirs = earlier_runs(record)
        if theirs.get("name") != experiment.name:
            raise UserError(
                f"{out} holds the results of experiment '{theirs.get('name')}', not "
                f"'{experiment.name}'; choose another --out"
            )
        shared = {
            k: v
            for k, v in experiment.base.to_flat().items()
            if k.startswith("data.") or k in ("train.weighting", "evaluation.where")
        }
        for key, value in shared.items():
            if theirs["base"].get(key) != value:
                raise UserError(
                    f"{out} holds results with {key} = {theirs['base'].get(key)!r}, not "
                    f"{value!r}; choose another --out"
                )
    elif os.path.lexists(out) and (
        not is_folder(out) or any(path.name != IN_USE for path in out.iterdir())
    ):
        raise UserError(f"{out} is not empty and not an experiment's folder; choose another --out")


def _check_earlier(experiment: Experiment, out: Path) -> None:
    """Refuse, before anything is written, to go on with a run made under other settings."""
    for arm in experiment.arms:
        for seed in experiment.seeds:
            directory = RunDirectory(out / arm / f"seed-{seed}")
            if (directory.path / "config.json").exists():
                directory.open(experiment.settings(arm, seed), arm)
            statement, value = directory.path / "privacy.json", None
            with contextlib.suppress(UserError):  # damage is named by the report
                value = files.read_json(statement)
            if isinstance(value, dict):
                statement_module.check_version(value, str(statement))


def _named(experiment: Experiment, earlier: Any, *, seen: bool) -> dict[str, Any] | None:
    """The primary endpoint, and whether it was named or changed with results at hand."""
    if experiment.primary is None:
        return earlier if isinstance(earlier, dict) else None
    told = experiment.primary.to_dict()
    if isinstance(earlier, dict) and earlier | {"after_results": False} == told:
        return earlier
    return {**told, "after_results": seen}


def _describe(experiment: Experiment, out: Path) -> None:
    """Write or extend ``experiment.json``."""
    record = out / "experiment.json"
    earlier = earlier_runs(record)
    network = load_network(experiment.base.data)
    runs = {(a, s) for a in experiment.arms for s in experiment.seeds}
    known = {(a, s) for a, s in earlier["runs"]}
    seen = any((out / a / f"seed-{s}" / "result.json").is_file() for a, s in known)
    files.write_json(
        record,
        {
            "name": experiment.name,
            "title": experiment.title,
            "description": experiment.description,
            "paper": experiment.paper,
            "decompose": earlier["decompose"]
            | {arm: list(decomposing.controls(arm)) for arm in experiment.decompose},
            "arms": list(dict.fromkeys([*earlier["arms"], *experiment.arms])),
            "seeds": sorted({*earlier["seeds"], *experiment.seeds}),
            "runs": sorted(
                {
                    *((a, s) for a, s in earlier["runs"]),
                    *((a, s) for a in experiment.arms for s in experiment.seeds),
                }
            ),
            "primary": _named(experiment, earlier.get("primary"), seen=seen),
            # Runs that were added after results were seen may depend on them.
            "extended": bool(earlier.get("extended")) or (seen and not runs <= known),
            "base": experiment.base.to_flat(),
            "synthetic": network.cohort.synthetic,
            "cohort": network.cohort.name,
            "notes": list(network.cohort.notes),
        },
    )


def write_samples(experiment: Experiment, out: Path) -> None:
    """Some of the server's public images, as they are and as each image mechanism shows them.

    Volumes show their middle slice. None where the server has no images
    (``evaluation.where = "hospitals"``).
    """
    if experiment.base.evaluation.where == "hospitals":
        return
    shard, _ = held_out_shard(experiment.base.data)
    labels = shard.table["label"].to_numpy(dtype=np.int8)
    rows = [r for label in (0, 1) for r in np.flatnonzero(labels == label)[: SAMPLES // 2]]
    clean = np.asarray(shard.images[rows], dtype=np.uint8)
    arrays = {"clean": central_slices(clean), "label": labels[rows]}
    for name, mechanism in _mechanisms(experiment):
        noised = central_slices(mechanism.apply(clean, NoiseSource().numpy()))
        arrays[f"noisy:{name}"] = (noised.clip(0, 1) * 255).round().astype(np.uint8)
    path = out / "samples.npz"
    if path.exists():
        # A damaged file is made again from what this call knows.
        with contextlib.suppress(OSError, ValueError, zipfile.BadZipFile), np.load(path) as earlier:
            arrays = {**{name: earlier[name] for name in earlier.files}, **arrays}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as target:
            np.savez_compressed(target, allow_pickle=False, **arrays)

    files.write_atomically(path, write)


def _mechanisms(experiment: Experiment) -> Iterable[tuple[str, ImageMechanism]]:
    for name, settings in experiment.arms.items():
        image = image_mechanism(settings)
        if image is not None:
            yield name, image
