"""A comparison: arms x seeds on the same hospitals, each in a run directory of its own."""

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fedmed import config
from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.base.holding import NAME as IN_USE
from fedmed.base.holding import held
from fedmed.base.opening import absolute, is_folder, present
from fedmed.base.paths import NAMED_WEIGHTS, resolve_all
from fedmed.config import ARMS, Scalar, Settings
from fedmed.data.form import central_slices
from fedmed.data.network import evaluation_shard, held_out_shard, load_network, member_names
from fedmed.evaluation.comparison import compare
from fedmed.experiment import pretraining
from fedmed.experiment.directory import RunDirectory
from fedmed.federation.members import make_plans, member_shard
from fedmed.models import build
from fedmed.privacy.mechanisms.images import ImageMechanism
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans.evaluation import evaluation_cap
from fedmed.privacy.plans.making import image_mechanism
from fedmed.privacy.statement import contents as statement_module
from fedmed.privacy.statement.totals import totals
from fedmed.report import published

# Arms that need no table of their own in an experiment's file.
_NAMED: dict[str, dict[str, Any]] = {
    **{arm: {"privacy": {"arm": arm}} for arm in ARMS},
    "pooled": {"train": {"scheme": "pooled"}, "privacy": {"arm": "none"}},
    "pooled-dp-sgd": {"train": {"scheme": "pooled"}, "privacy": {"arm": "dp-sgd"}},
    "local-only": {"train": {"scheme": "local-only"}, "privacy": {"arm": "none"}},
}
_HEAD = ("name", "title", "description", "seeds", "arms", "arm", "pretrain", "paper")
SAMPLES = 6  # images shown in the report, before and after noise


@dataclass(frozen=True)
class Experiment:
    """Arms by name, all with one cohort, one partition and one weighting of hospitals."""

    name: str
    title: str
    description: str
    seeds: tuple[int, ...]
    arms: dict[str, Settings]
    pretrain: Settings | None = None  # what arms with model.weights = "pretrain" start from
    paper: str = ""  # whose published figures the report shows beside these

    def settings(self, arm: str, seed: int) -> Settings:
        """Settings of one run."""
        return self.arms[arm].replaced({"run.seed": seed})

    @property
    def base(self) -> Settings:
        """Settings of the first arm: data and weighting are the same in all."""
        return next(iter(self.arms.values()))


def load_experiment(
    path: Path,
    *,
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (),
    assignments: Sequence[str] = (),
) -> Experiment:
    """Read an experiment's TOML; ``arms`` and ``seeds`` select, ``assignments`` are ``key=value``.

    Relative paths under ``data.`` and ``model.weights`` are taken from the experiment's folder.
    ``pretrain.KEY`` in ``assignments`` changes a setting of ``[pretrain]``.
    Raises :class:`UserError` naming the file and the key.
    """
    text = config.read_toml(path)
    where = str(path)
    base = {key: value for key, value in text.items() if key not in _HEAD}
    changes = dict(config.parse_assignment(a) for a in assignments)
    for key in changes:
        if key.removeprefix(pretraining.PREFIX) not in Settings().to_flat():
            raise UserError(
                f"--set: unknown key '{key}'{config.nearest(key, Settings().to_flat())}"
            )
    before = {
        key.removeprefix(pretraining.PREFIX): changes.pop(key)
        for key in list(changes)
        if key.startswith(pretraining.PREFIX)
    }
    _refuse_ignored(base, changes, arms, where)
    names = _names(text, base, changes, arms, where)
    tables = _table(text, "arm", where)
    unused = [name for name in tables if name not in names and not arms]
    if unused and "privacy.arm" not in changes:
        raise UserError(f"{where}: [arm.{unused[0]}] is not in arms = [...]; add it or remove it")
    settings = {name: _settings(name, base, tables, changes, path) for name in names}
    pretrain = None
    if "pretrain" in text:
        overall = {key: value for key, value in changes.items() if key.startswith("run.")}
        overall |= {k: v for k, v in changes.items() if k == "data.image-size"}
        pretrain = pretraining.pretraining(text["pretrain"], base, {**overall, **before}, path)
    elif before:
        raise UserError(f"--set {pretraining.PREFIX}{next(iter(before))}: no [pretrain] in {where}")
    settings = {n: pretraining.starts_from(s, pretrain, where) for n, s in settings.items()}
    if not any(s.model.weights == "pretrain" for s in settings.values()):
        if pretrain is not None and not arms:
            raise UserError(
                f"{where}: no arm starts from [pretrain]; set model.weights = 'pretrain' for one, "
                "or remove the table"
            )
        pretrain = None
    chosen = list(seeds) or text.get("seeds", [0])
    if not _is_list_of(chosen, int) or not chosen or min(chosen) < 0:
        raise UserError(f"{where}: seeds = {chosen!r}; give a list of whole numbers >= 0")
    if len(set(chosen)) != len(chosen):
        raise UserError(f"{where}: seeds = {chosen!r} names one twice; keep each once")
    name = str(text.get("name", path.stem))
    if not _is_folder_name(name):
        raise UserError(f"{where}: name = '{name}' becomes a folder; use letters, digits, - _ .")
    paper = str(text.get("paper", ""))
    if paper and paper not in published.names():
        raise UserError(
            f"{where}: paper = '{paper}' is not known{config.nearest(paper, published.names())}; "
            f"use one of {', '.join(published.names())}, or remove it"
        )
    return Experiment(
        name=name,
        title=str(text.get("title", path.stem)),
        description=str(text.get("description", "")).strip(),
        seeds=tuple(chosen),
        arms=settings,
        pretrain=pretrain,
        paper=paper,
    )


def _refuse_ignored(
    base: dict[str, Any], changes: dict[str, Scalar], arms: Sequence[str], where: str
) -> None:
    """No setting is silently ignored: those that the command decides are refused elsewhere."""
    run = base.get("run", {})
    for key, remedy in (("seed", "seeds = [...] or --seed"), ("out", "--out")):
        if isinstance(run, dict) and key in run:
            raise UserError(f"{where}: [run] {key} is not read in an experiment; use {remedy}")
        if f"run.{key}" in changes:
            raise UserError(f"--set run.{key}: not read in an experiment; use {remedy}")
    if arms and "privacy.arm" in changes:
        raise UserError("--set privacy.arm: --arm says which arms to run; give only one of them")


def _names(
    text: dict[str, Any],
    base: dict[str, Any],
    changes: dict[str, Scalar],
    arms: Sequence[str],
    where: str,
) -> list[str]:
    """Names of the arms to run: those asked for, else the file's, else the one it describes."""
    listed = text.get("arms")
    if listed is not None and (not _is_list_of(listed, str) or not listed):
        raise UserError(f'{where}: arms = {listed!r}; give a list such as ["none", "dp-sgd"]')
    known = {*_NAMED, *_table(text, "arm", where)}
    if arms:
        names = list(arms)
    elif "privacy.arm" in changes:
        names = [str(changes["privacy.arm"])]
    elif listed is not None:
        names = list(listed)
    else:
        privacy = base.get("privacy", {})
        names = [str(privacy.get("arm", "none")) if isinstance(privacy, dict) else "none"]
    for name in names:
        if name not in known:
            raise UserError(
                f"{where}: unknown arm '{name}'{config.nearest(name, known)}; "
                f"use one of {', '.join(sorted(known))}, "
                f"or describe it under [arm.{name}]"
            )
        if not _is_folder_name(name) or name == pretraining.FOLDER:
            raise UserError(f"{where}: arm '{name}' becomes a folder; use letters, digits, - _ .")
    if len(set(names)) != len(names):
        raise UserError(f"{where}: arms = {names!r} names one twice; keep each once")
    return names


def _settings(
    name: str,
    base: dict[str, Any],
    tables: dict[str, Any],
    changes: dict[str, Scalar],
    path: Path,
) -> Settings:
    """Settings of one arm: the file's, the arm's own, then the command line's."""
    own = config.flatten(_table(tables, name, str(path)))
    for key in own:
        shared = key.startswith(("data.", "run.", "evaluation.")) or key == "train.weighting"
        if shared and key not in ("evaluation.epsilon", "evaluation.delta"):
            raise UserError(
                f"{path}: [arm.{name}] sets {key}, but one comparison has one cohort, one machine, "
                f"one evaluation and one weighting of hospitals; set {key} for all arms"
            )
    nested: dict[str, Any] = {}
    named = config.flatten(_NAMED.get(name, {}))
    given = {k: v for k, v in changes.items() if k != "privacy.arm"}
    for source in (config.flatten(base), own, given, named):
        for key, value in source.items():
            config.put(nested, key, value, str(path))
    if name not in _NAMED and "privacy.arm" not in own and "train.scheme" not in own:
        raise UserError(f"{path}: [arm.{name}] does not say its privacy.arm; add it")
    _refuse_unread(name, own, path)
    resolve_all(nested, path.parent, changes)
    return config.parse(nested, f"{path}, arm {name}" if len(tables) else str(path))


def _refuse_unread(name: str, own: dict[str, Any], path: Path) -> None:
    """An arm's own table may only hold keys that the arm reads."""
    named = config.flatten(_NAMED.get(name, {}))
    arm = str(own.get("privacy.arm", named.get("privacy.arm", "none")))
    kinds = {arm, str(own.get("privacy.image-mechanism", "none"))}
    for key in own:
        readers = config.READ_BY.get(key)
        if readers is not None and not kinds & set(readers):
            raise UserError(
                f"{path}: [arm.{name}] sets {key}, which the arm {arm} does not read (only "
                f"{', '.join(readers)}); remove it"
            )


def _table(text: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = text.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{where}: '{key}' must be a table")
    return value


def _is_folder_name(name: str) -> bool:
    return name.replace("-", "").replace("_", "").replace(".", "").isalnum()


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in value
    )


class Progress(Protocol):
    """Who wants to hear how a comparison goes."""

    def preparing(self, what: str) -> None:
        """Something that is neither an arm nor a round is being done."""

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
    """Put the total over all finished runs of a comparison into each run's statement."""
    found = {}
    absent = []
    for folder in sorted(path.parent for path in out.glob("*/seed-*/config.json")):
        name = f"{folder.parent.name}/{folder.name}"
        absent.append(name)
        if (folder / "result.json").is_file():
            # A statement that is damaged is not counted here, and named by the report.
            with contextlib.suppress(UserError, ValueError):
                value = files.read_json(folder / "privacy.json")
                statement_module.check(value)
                found[name] = (folder / "privacy.json", value)
                absent.pop()
    record = out / "experiment.json"
    extended = bool(earlier_runs(record).get("extended"))
    values = {name: value for name, (_, value) in found.items()}
    added = [t.model_dump() for t in totals(values, not_counted=absent, extended=extended)]
    for path, value in found.values():
        if value["total"] != added:
            files.write_json(path, {**value, "total": added})
    files.write_json(out / "privacy.json", {"runs": sorted(found), "total": added})


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
        if model.weights not in NAMED_WEIGHTS:
            build(model, size, 0, dimensions=dimensions)  # weights from a file are read once before
    for settings in experiment.arms.values():
        make_plans(settings)
        for member in member_names(settings):
            if not settings.data.site_names:  # whose images are elsewhere
                member_shard(settings, member)  # a damaged image is found now
            if settings.evaluation.where != "server":
                evaluation_shard(settings.data, member, evaluation_cap(settings))


def earlier_runs(record: Path) -> dict[str, Any]:
    """``experiment.json`` with lists of arms, seeds and runs and a table of settings.

    They are empty where there is none; one that is of another kind raises :class:`UserError`.
    """
    found = files.read_object(record) if record.exists() else {}
    told: dict[str, Any] = {"arms": [], "seeds": [], "runs": [], "base": {}, **found}
    pairs = _is_list_of(told["runs"], list) and all(
        len(run) == 2 and isinstance(run[0], str) and _is_list_of(run[1:], int)
        for run in told["runs"]
    )
    lists = _is_list_of(told["arms"], str) and _is_list_of(told["seeds"], int) and pairs
    if not lists or not isinstance(told["base"], dict):
        raise UserError(
            f"{record} is damaged: arms, seeds, runs or base are of another kind; restore it, or "
            "choose another --out"
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
            "arms": list(dict.fromkeys([*earlier["arms"], *experiment.arms])),
            "seeds": sorted({*earlier["seeds"], *experiment.seeds}),
            "runs": sorted(
                {
                    *((a, s) for a, s in earlier["runs"]),
                    *((a, s) for a in experiment.arms for s in experiment.seeds),
                }
            ),
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
