"""Everything a site needs to join a federation, written once: keys, policy, data, compose file."""

import json
import os
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedmed import config
from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.base.frames import read_table
from fedmed.base.opening import MIB, absolute, check_regular, expanded, present, read_bytes
from fedmed.config import flatten
from fedmed.privacy.ledger.policy import read_policy
from fedmed.site.authority import fingerprint, read_authority
from fedmed.site.certs import new, write_secret
from fedmed.site.compose import GROUP, GUARD, NODE, compose
from fedmed.site.connection import NAME, new_key, read_connection, split_address
from fedmed.site.file import SUM_KEY, read_site
from fedmed.site.sum_keys import PEERS, template, write_identity

_FILES: Final = (
    *("site.toml", "policy.toml", NAME, "compose.yaml", PEERS, "keys", "state", "run"),
)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What ``fedmed site init`` was asked for.

    ``data`` is a table of images, or a TOML of ``data.*`` keys without the prefix; ``app`` the
    bundle that may run here, as a file or its SHA-256. ``ca`` is copied where it is given.
    """

    name: str
    server: str
    data: Path
    images: Path | None = None
    ca: Path | None = None
    app: str = ""
    epsilon: float = 8.0
    delta: float = 1e-5
    unit: str = "patient"
    arms: tuple[str, ...] = ("dp-sgd",)
    minimum_cohort: int = 100
    public_size: int = 0


def make_site(folder: Path, wish: Wish) -> str:
    """Write a site's files in ``folder`` and return the public key to be registered.

    Raises :class:`UserError`, and leaves nothing behind, where a file is there already or a wish
    makes no sense.
    """
    split_address(wish.server, "--server")
    new(folder, _FILES)
    authority = b""
    if wish.ca is not None:
        new(folder, ("ca.crt",))
        authority = read_authority(wish.ca, f"--ca {wish.ca}")
    texts = {
        "site.toml": _site(wish),
        "policy.toml": _policy(wish),
        NAME: f'server = {json.dumps(wish.server)}\nca = "ca.crt"\nkey = "keys/node"\n',
    }
    paths = _checked(folder, texts)
    private, public = new_key()
    texts["compose.yaml"] = compose(wish.name, paths)
    write_secret(folder / "keys" / "node", private)
    files.write_bytes(folder / "keys" / "node.pub", public + b"\n")
    texts[PEERS] = template(wish.name, write_identity(folder))
    for name, text in texts.items():
        files.write_text(folder / name, text)
    if authority:
        files.write_bytes(folder / "ca.crt", authority)
    with files.disk_errors(folder):
        (folder / "run").mkdir()
        (folder / "run").chmod(0o2750)  # the socket is for the group
        if os.geteuid() == 0:
            _hand_over(folder)
    return public.decode("ascii")


def steps(folder: Path, wish: Wish) -> list[str]:
    """What the administrator does next, one line each, with the fingerprints to compare.

    ``folder`` is one that :func:`make_site` wrote. Commands can be copied into a shell.
    """
    from fedmed.federation.node_keys import fingerprint as key_fingerprint

    key = folder / "keys" / "node.pub"
    here = f"cd {shlex.quote(str(folder))}"
    mark = key_fingerprint(read_bytes(key, MIB, "make it with fedmed site init"))
    todo = []
    if wish.ca is None:
        todo.append(f"put the certificate of the server's CA at {folder / 'ca.crt'}")
    else:
        ca = fingerprint(read_bytes(folder / "ca.crt", MIB, "give a certificate"))
        todo.append(f"compare the CA's SHA-256 fingerprint with the coordinator's: {ca}")
    if not wish.public_size:
        todo.append(f"set public-size in {folder / 'policy.toml'}: a federation needs it")
    if os.geteuid() != 0:
        todo.append(
            f"let the containers' users own their files: {here} && sudo chown "
            f"{NODE}:{GROUP} keys/node && sudo chown -R {GUARD}:{GROUP} state run"
        )
    return [
        *todo,
        f"read {folder / 'policy.toml'} with whoever answers for the data",
        f"send {key} to the coordinator, who registers it (flwr supernode register node.pub)",
        f"tell the coordinator its fingerprint by telephone: {mark}",
        f"check: {here} && docker compose run --rm doctor (without containers: fedmed doctor "
        f"{shlex.quote(str(folder / 'site.toml'))})",
        f"start: {here} && docker compose up --detach",
    ]


def app_hash(app: str) -> str:
    """SHA-256 of an app bundle, given as it is or by the bundle's path; "" for none."""
    if not app:
        return ""
    if len(app) == 64 and set(app.lower()) <= set("0123456789abcdef"):
        return app.lower()
    path = expanded(app)
    _readable(path, "--app")
    return files.digest(path)


def _checked(folder: Path, texts: dict[str, str]) -> list[Path]:
    """The data's paths, after every text was read as its reader will; no file stays."""
    with tempfile.TemporaryDirectory() as name:
        there = Path(name).absolute()
        for file, text in texts.items():
            (there / file).write_text(text, encoding="utf-8")
        try:
            site = read_site(there / "site.toml")
            read_policy(there / "policy.toml")
            read_connection(there / NAME)
        except UserError as error:
            raise UserError(str(error).replace(str(there), str(folder))) from error
    wanted = [str(site.data.get(f"data.{key}", "")) for key in ("path", "images", "index")]
    paths = [Path(path) for path in wanted if path]
    for path in paths:
        if not present(path):
            raise UserError(f"--data: {path}: no such file or folder; correct the path")
    return sorted({path for path in paths if not set(path.parents) & set(paths)})


def _site(wish: Wish) -> str:
    data = _data(wish)
    plain = {key: value for key, value in data.items() if not isinstance(value, dict)}
    lines = [
        f"name = {json.dumps(wish.name)}  # as the federation knows this hospital",
        'policy = "policy.toml"',
        'ledger = "state/ledger.sqlite"',
        'audit = "state/ledger.audit.jsonl"',
        'socket = "run/guard.sock"',
        f"peers = [{NODE}]  # the SuperNode's user: who else asks gets nothing",
        "",
        "[data]  # where images come from, whatever a request says",
        *(f"{key} = {json.dumps(value)}" for key, value in plain.items()),
    ]
    for key, value in data.items():
        if isinstance(value, dict):
            lines += ["", f"[data.{key}]", *(f"{k} = {json.dumps(v)}" for k, v in value.items())]
    return "\n".join([*lines, "", "[settings]  # this site's own values, stricter at most", ""])


def _data(wish: Wish) -> dict[str, Any]:
    _readable(wish.data, "--data")
    if wish.data.suffix == ".toml":
        if wish.images is not None:
            raise UserError("--images goes with a table; write images = in the TOML of --data")
        given = config.read_toml(wish.data)
        here = expanded(wish.data).absolute().parent
        for key in ("path", "images", "index"):
            if isinstance(given.get(key), str) and (here / str(given[key])).exists():
                given[key] = str(absolute(here / str(given[key])))
        for key, value in flatten(given).items():
            if not isinstance(value, str | int | float | bool):
                raise UserError(f"{wish.data}: {key}: give one number, true, false or text")
        return given
    images = wish.images if wish.images is not None else wish.data.parent
    if not present(images):
        raise UserError(f"--images {images}: no such folder or zip; correct the path")
    columns = read_table(wish.data).columns
    section: dict[str, Any] = {
        "source": "table",
        "path": str(expanded(wish.data).absolute()),
        "images": str(expanded(images).absolute()),
    }
    return section if "split" in columns else section | {"split": "patient"}


def _policy(wish: Wish) -> str:
    size = f"public-size = {wish.public_size}" if wish.public_size else "# public-size = 1000"
    app = app_hash(wish.app)
    lines = [
        "# What this hospital lets anybody ask, whatever the server says.",
        f"maximum-epsilon = {wish.epsilon!r}  # over all runs together",
        f"delta = {wish.delta!r}",
        f"unit = {json.dumps(wish.unit)}",
        f"arms = {json.dumps(list(wish.arms))}",
        f"minimum-cohort = {wish.minimum_cohort}",
        f"{size}  # a size that everybody may know: rates and noise rest on it",
        'evaluation = "shared"  # or "refuse": noised histograms of evaluation patients may leave,',
        "# charged to the same limit",
    ]
    return "\n".join([*lines, *([f'apps = ["{app}"]  # SHA-256'] if app else []), ""])


def _readable(path: Path, option: str) -> None:
    try:
        check_regular(expanded(path), files.MOST_FILE, "correct the path or its rights")
    except (UserError, OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{option} {path}: cannot be read ({why}); correct the path") from error


def _hand_over(folder: Path) -> None:
    os.chown(folder / "keys" / "node", NODE, GROUP)
    os.chown(folder / "state", GUARD, GROUP)
    os.chown(folder / SUM_KEY, GUARD, GROUP)
    os.chown(folder / "run", GUARD, GROUP)
