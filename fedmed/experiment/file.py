"""An experiment's file: its arms, seeds and settings, read and checked before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedmed import config
from fedmed.base.errors import UserError
from fedmed.base.paths import resolve_all
from fedmed.config import ARMS, Scalar, Settings
from fedmed.evaluation.comparison.endpoint import Endpoint
from fedmed.evaluation.comparison.endpoint import read as read_endpoint
from fedmed.experiment import decomposing, pretraining
from fedmed.report import published

# Arms that need no table of their own in an experiment's file.
_NAMED: dict[str, dict[str, Any]] = {
    **{arm: {"privacy": {"arm": arm}} for arm in ARMS},
    "pooled": {"train": {"scheme": "pooled"}, "privacy": {"arm": "none"}},
    "pooled-dp-sgd": {"train": {"scheme": "pooled"}, "privacy": {"arm": "dp-sgd"}},
    "local-only": {"train": {"scheme": "local-only"}, "privacy": {"arm": "none"}},
}
# Keys that the command sets itself, and what says them in an experiment.
_DECIDED = {"run.seed": "seeds = [...] or --seed", "run.out": "--out"}
_HEAD = (
    "name",
    "title",
    "description",
    "seeds",
    "arms",
    "arm",
    "pretrain",
    "paper",
    "decompose",
    "primary",
)


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
    decompose: tuple[str, ...] = ()  # arms whose cost is split into recipe, clipping and noise
    primary: Endpoint | None = None  # the change that the comparison is about

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
    changes = dict(config.parse_assignment(a) for a in assignments)
    return make_experiment(text, path, arms=arms, seeds=seeds, changes=changes)


def make_experiment(
    text: dict[str, Any],
    path: Path,
    *,
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (),
    changes: Mapping[str, Scalar] = MappingProxyType({}),
) -> Experiment:
    """The same from what such a file holds; ``path`` is its name in messages, and gives its folder.

    ``changes`` are settings by dotted key.
    """
    where = str(path)
    base = {key: value for key, value in text.items() if key not in _HEAD}
    changes, before = _changes(changes)
    _refuse_unknown(base, where)
    _refuse_ignored(base, changes, arms, where)
    names = _names(text, base, changes, arms, where)
    tables = _table(text, "arm", where)
    unused = [name for name in tables if name not in names and not arms]
    if unused and "privacy.arm" not in changes:
        raise UserError(f"{where}: [arm.{unused[0]}] is not in arms = [...]; add it or remove it")
    settings = {name: _settings(name, base, tables, changes, path) for name in names}
    split = decomposing.asked(text.get("decompose", []), settings, where, chosen=bool(arms))
    settings = decomposing.with_controls(settings, split, where)
    pretrain = _pretrain(text, base, changes, before, path)
    settings = {n: pretraining.starts_from(s, pretrain, where) for n, s in settings.items()}
    if not any(s.model.weights == "pretrain" for s in settings.values()):
        if pretrain is not None and not arms:
            raise UserError(
                f"{where}: no arm starts from [pretrain]; set model.weights = 'pretrain' for one, "
                "or remove the table"
            )
        pretrain = None
    chosen = _seeds(list(seeds) or text.get("seeds", [0]), where)
    name = str(text.get("name", path.stem))
    if not _is_folder_name(name):
        raise UserError(f"{where}: name = '{name}' becomes a folder; use letters, digits, - _ .")
    return Experiment(
        name=name,
        title=str(text.get("title", path.stem)),
        description=str(text.get("description", "")).strip(),
        seeds=chosen,
        arms=settings,
        pretrain=pretrain,
        paper=_paper(text, where),
        decompose=split,
        primary=_primary(text, settings, where, chosen=bool(arms)),
    )


def _changes(given: Mapping[str, Scalar]) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
    """What the command line sets, for the arms and for ``[pretrain]``."""
    changes = dict(given)
    for key in changes:
        if key.removeprefix(pretraining.PREFIX) not in Settings().to_flat():
            raise UserError(
                f"--set: unknown key '{key}'{config.nearest_key(key, Settings().to_flat())}"
            )
    before = {
        key.removeprefix(pretraining.PREFIX): changes.pop(key)
        for key in list(changes)
        if key.startswith(pretraining.PREFIX)
    }
    return changes, before


def _pretrain(
    text: dict[str, Any],
    base: dict[str, Any],
    changes: dict[str, Scalar],
    before: dict[str, Scalar],
    path: Path,
) -> Settings | None:
    """Settings of ``[pretrain]``, where the file has that table; ``before`` are changes of it."""
    if "pretrain" in text:
        overall = {key: value for key, value in changes.items() if key.startswith("run.")}
        overall |= {k: v for k, v in changes.items() if k == "data.image-size"}
        return pretraining.pretraining(text["pretrain"], base, {**overall, **before}, path)
    if before:
        raise UserError(f"--set {pretraining.PREFIX}{next(iter(before))}: no [pretrain] in {path}")
    return None


def _seeds(chosen: Any, where: str) -> tuple[int, ...]:
    if not is_list_of(chosen, int) or not chosen or min(chosen) < 0:
        raise UserError(f"{where}: seeds = {chosen!r}; give a list of whole numbers >= 0")
    if len(set(chosen)) != len(chosen):
        raise UserError(f"{where}: seeds = {chosen!r} names one twice; keep each once")
    return tuple(chosen)


def _primary(
    text: dict[str, Any], arms: Mapping[str, Settings], where: str, *, chosen: bool
) -> Endpoint | None:
    """The endpoint of ``[primary]``; `chosen`: only some of the file's arms are run."""
    if "primary" not in text:
        return None
    primary = read_endpoint(text["primary"], where)
    if primary.after_results:
        raise UserError(f"{where}: [primary] after_results is found out, not set; remove it")
    if primary.arm not in arms and not chosen:
        raise UserError(
            f"{where}: [primary] arm = '{primary.arm}' is not in arms = [...]"
            f"{config.nearest(primary.arm, arms)}; add it there, or name another"
        )
    return primary


def _paper(text: dict[str, Any], where: str) -> str:
    paper = str(text.get("paper", ""))
    if paper and paper not in published.names():
        raise UserError(
            f"{where}: paper = '{paper}' is not known{config.nearest(paper, published.names())}; "
            f"use one of {', '.join(published.names())}, or remove it"
        )
    return paper


def _refuse_unknown(base: dict[str, Any], where: str) -> None:
    """A key of the file itself that is neither one of an experiment nor a table of settings."""
    for key in base:
        if key not in Settings.model_fields:
            here = (*_HEAD, *Settings.model_fields)
            flat = [name for name in Settings().to_flat() if name not in _DECIDED]
            meant = config.nearest(key, here, 0.8) or config.nearest_key(key, (*here, *flat))
            raise UserError(
                f"{where}: unknown key '{key}'{meant or '; correct the spelling, or remove it'}"
            )


def _refuse_ignored(
    base: dict[str, Any], changes: dict[str, Scalar], arms: Sequence[str], where: str
) -> None:
    """No setting is silently ignored: those that the command decides are refused elsewhere."""
    run = base.get("run", {})
    for name, remedy in _DECIDED.items():
        key = name.removeprefix("run.")
        if isinstance(run, dict) and key in run:
            raise UserError(f"{where}: [run] {key} is not read in an experiment; use {remedy}")
        if name in changes:
            raise UserError(f"--set {name}: not read in an experiment; use {remedy}")
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
    if listed is not None and (not is_list_of(listed, str) or not listed):
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
    kinds = {arm, str(own.get("privacy.image-mechanism", arm))}  # "none" is an arm as well
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


def is_list_of(value: object, kind: type) -> bool:
    """Whether a value is a list of ``kind`` alone; True and False are no numbers."""
    return isinstance(value, list) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in value
    )
