"""A site's own file, ``site.toml``: its data, policy, ledger and values; no request changes them.

Paths are relative to the file. ``[data]`` holds ``data.*`` keys without the prefix, ``[settings]``
dotted keys of the other sections.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from fedmed import config
from fedmed.base.errors import UserError
from fedmed.base.opening import expanded, present
from fedmed.config import ARMS, Data, Privacy, Run, Scalar, Section, Train

FORM: Final = ("image-size", "dimensions", "slices")
"""Keys of ``data`` that the model's input depends on: the federation's, never a site's."""

SHARED: Final = (
    *FORM, "spacing", "window-centre", "window-width", "target", "uncertain", "uncertain-label",
    "hospitals", "sites",
)  # fmt: skip
"""Keys of ``data`` that a request decides where the site's file does not.

Every other one says where images come from, or who is trained on: where the site's file leaves it
out, it has its default, whatever the request says.
"""

OWN_ARMS: Final = tuple(arm.name for arm in ARMS.values() if arm.own)
"""Arms that a site may choose by itself: their noise enters at the hospital."""

OWN: Final = (
    "privacy.arm",
    "privacy.epsilon",
    "privacy.noise-multiplier",
    "privacy.delta",
    "privacy.unit",
    "privacy.images-per-patient",
    "privacy.clipping-norm",
    "privacy.image-mechanism",
    "privacy.laplace-scale",
    "privacy.cell",
    "privacy.neighbourhood",
    "privacy.clip-released",
    "privacy.clipping",
    "train.batch-size",
    "train.local-epochs",
)
"""Keys that a site may set for itself and declares when it joins: its plan rests on them."""

MACHINE: Final = ("privacy.engine", "privacy.physical-batch-size", "run.device", "run.threads")
"""Keys of the site's machine, which change no guarantee."""

SUM_KEY: Final = "state/sum.key"
SUM_PEERS: Final = "sum-peers.toml"
"""Where the keys of secure sums are, unless the site's file says otherwise."""

_KEYS: Final = (
    *("name", "policy", "ledger", "audit", "socket", "peers", "sum-key", "sum-peers"),
    *("data", "settings"),
)
_SECTIONS: Final[dict[str, type[Section]]] = {
    "run": Run,
    "train": Train,
    "privacy": Privacy,
}
_PATHS: Final = ("path", "images", "index")


@dataclass(frozen=True, kw_only=True)
class SiteFile:
    """The content of a ``site.toml``, its paths absolute.

    ``data`` and ``settings`` have dotted keys, as Flower's run config has them. ``peers`` are the
    user ids that may connect to ``socket``; empty stands for the guard's own user. ``sum_key`` and
    ``sum_peers`` need only be there where the site takes part in secure sums.
    """

    where: Path
    name: str
    policy: Path
    ledger: Path
    audit: Path
    socket: Path
    sum_key: Path
    sum_peers: Path
    peers: tuple[int, ...] = ()
    data: dict[str, Scalar] = field(default_factory=dict, hash=False)
    settings: dict[str, Scalar] = field(default_factory=dict, hash=False)


def read_site(path: Path) -> SiteFile:
    """The site at ``path``; raises :class:`UserError` naming the first wrong key and the remedy.

    No file that it names is opened.
    """
    given = config.read_toml(path)
    _known(path, "", given, _KEYS)
    texts = {key: _text(path, given, key) for key in ("name", "policy", "ledger", "socket")}
    name = texts["name"]
    if not name.isprintable() or name != name.strip() or "," in name or name == "pooled":
        raise UserError(
            f"{path}: name = {name!r}: write the hospital's public name, as in data.sites, without "
            "commas or spaces around it"
        )
    here = expanded(path).absolute().parent
    audit = _or(path, given, "audit", "")
    ledger = here / expanded(texts["ledger"])
    return SiteFile(
        where=expanded(path).absolute(),
        name=name,
        policy=here / expanded(texts["policy"]),
        ledger=ledger,
        audit=here / expanded(audit) if audit else ledger.with_suffix(".audit.jsonl"),
        socket=here / expanded(texts["socket"]),
        sum_key=here / expanded(_or(path, given, "sum-key", SUM_KEY)),
        sum_peers=here / expanded(_or(path, given, "sum-peers", SUM_PEERS)),
        peers=_peers(path, given.get("peers", [])),
        data=_data(path, _table(path, given, "data")),
        settings=_settings(path, _table(path, given, "settings")),
    )


def _known(path: Path, prefix: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise UserError(
                f"{path}: unknown key '{prefix}{key}'{config.nearest(key, known)}; use "
                f"{', '.join(known)}"
            )


def _text(path: Path, given: dict[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not value:
        raise UserError(f'{path}: {key} is missing or no text; set {key} = "..."')
    return value


def _or(path: Path, given: dict[str, Any], key: str, default: str) -> str:
    return _text(path, given, key) if key in given else default


def _table(path: Path, given: dict[str, Any], key: str) -> dict[str, Any]:
    value = given.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{path}: {key} is no table; write its keys under [{key}]")
    return value


def _peers(path: Path, given: object) -> tuple[int, ...]:
    if not isinstance(given, list) or any(
        not isinstance(uid, int) or isinstance(uid, bool) or not 0 <= uid < 2**32 for uid in given
    ):
        raise UserError(f"{path}: peers: give a list of numeric user ids, such as [10001]")
    return tuple(given)


def _data(path: Path, given: dict[str, Any]) -> dict[str, Scalar]:
    """The site's ``data.*`` keys, checked as far as that goes without the request's."""
    _known(path, "data.", given, tuple(f.replace("_", "-") for f in Data.model_fields))
    for key in (*FORM, "hospitals", "sites"):
        if key in given:
            raise UserError(
                f"{path}: data.{key} is the same for the whole federation; remove it here"
            )
    for key in ("partition", "partition-alpha"):
        if key in given:
            raise UserError(
                f"{path}: data.{key} divides a cohort among hospitals, but every image of a "
                "site's file is its own; remove it"
            )
    if "source" not in given:
        raise UserError(
            f"{path}: data.source is missing; say where the site's images come from, such as "
            'source = "table"'
        )
    # The federation's part of the keys comes with the request: here it only must not clash.
    volumes = ("spacing", "window-centre", "window-width")
    plain = {key: value for key, value in given.items() if key not in volumes}
    if "uncertain" not in plain:
        plain.pop("uncertain-label", None)
    parsed = config.parse({"data": plain}, str(path)).data
    flat = config.flatten(given, "data.")
    for key in _PATHS:
        value = given.get(key)
        if value:
            beside = expanded(path).absolute().parent / expanded(str(value))
            # MedMNIST's sets may also be called by name.
            if parsed.source != "medmnist" or key != "path" or present(beside):
                flat[f"data.{key}"] = str(beside)
    return flat


def _settings(path: Path, given: dict[str, Any]) -> dict[str, Scalar]:
    flat = config.flatten(given)
    for key, value in flat.items():
        if not isinstance(value, str | int | float | bool):
            raise UserError(f"{path}: settings: {key}: give one number, true, false or text")
        if key.startswith("data."):
            raise UserError(f"{path}: settings: {key} belongs under [data]; move it there")
        if key not in (*OWN, *MACHINE):
            known = (*OWN, *MACHINE)
            raise UserError(
                f"{path}: settings: {key} is no site's choice{config.nearest(key, known)}; use "
                f"{', '.join(known)}"
            )
    arm = flat.get("privacy.arm")
    if arm is not None and arm not in OWN_ARMS:
        wrong = "adds no noise at the hospital" if arm in ARMS else "is not known"
        raise UserError(
            f"{path}: settings: privacy.arm = {arm!r} {wrong}; use {', '.join(OWN_ARMS)}"
        )
    # Whether an arm's keys fit together shows with the request: here are their names and ranges.
    for name, values in config.unflatten(dict(flat), str(path)).items():
        section = _SECTIONS[name]
        try:
            section.model_validate(config.widen(values, section), by_alias=True, by_name=False)
        except ValidationError as error:
            raise UserError(f"{path}: settings: {name}.{config.explain(error, section)}") from error
    return flat
