"""What ``fedmed doctor`` looks at before a site joins; nothing but a lock file is written."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedmed.base.errors import RunError, UserError
from fedmed.base.opening import is_folder, present
from fedmed.config import ARMS, Settings
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import Policy, read_policy
from fedmed.privacy.ledger.report import regular
from fedmed.site.connection import NAME, Connection, read_connection
from fedmed.site.file import SiteFile, read_site
from fedmed.site.reach import Check, knock
from fedmed.site.settings import site_settings
from fedmed.site.sum_keys import read_identity, read_peers

SPACE: Final = 2 * 2**30
"""Bytes that should be free beside the ledger: decoded images and the last replies lie there."""

_REACHED: Final = ("reachable", "certificate", "clock", "version")  # what knock looks at
_CONNECTION: Final = ("connection", "node key", *_REACHED, "registered")
_DATA: Final = ("data", "patients", "cohort")

_SAMPLE: Final = 8  # images that are decoded
_SIDE: Final = 64  # pixels to which they are brought

Look = Callable[[Connection], list[Check]]


def examine(path: Path, look: Look = knock) -> list[Check]:
    """Every check of the site at ``path``; one that rests on another that failed says so."""
    try:
        site = read_site(path)
    except UserError as error:
        rest = ("policy", *_CONNECTION, *_DATA, "device", "disk", "ledger")
        return [Check("site file", False, str(error)), *_skipped(rest, "site file")]
    return [
        Check("site file", True, f"{site.where}: {site.name}"),
        *_policy(site),
        *_connection(site, look),
        *_data(site),
        _device(site),
        _disk(site),
        _ledger(site),
    ]


def summary(checks: list[Check]) -> str:
    """The last line of a report: how many of the checks are not ok, and how many were skipped.

    >>> remark = Check("data", True, "a remark", note=True)
    >>> wrong = [Check("data", False, "no such file"), *_skipped(("cohort",), "data")]
    >>> summary([Check("disk", True, "9 GiB free"), remark, *wrong])
    '1 of 3 checks not ok, 1 skipped'
    """
    made = [check for check in checks if not check.note]
    skipped = sum(check.skipped for check in made)
    wrong = sum(not check.ok for check in made) - skipped
    if not wrong:
        return f"all {len(made)} checks ok"
    return f"{wrong} of {len(made)} checks not ok" + (f", {skipped} skipped" if skipped else "")


def _skipped(names: Iterable[str], because: str) -> list[Check]:
    text = f"it rests on '{because}'"
    return [Check(name, False, text, skipped=True) for name in names]


def _policy(site: SiteFile) -> Iterator[Check]:
    try:
        policy = read_policy(site.policy)
    except UserError as error:
        yield Check("policy", False, str(error))
        return
    if not policy.public_size:
        text = f"{site.policy}: public-size is missing; declare a size that everybody may know"
        yield Check("policy", False, text)
        return
    if not policy.maximum_epsilon and not policy.arms:
        text = f"{site.policy}: neither maximum-epsilon nor arms: anything may be asked; set one"
        yield Check("policy", False, text)
        return
    most = f"epsilon {policy.maximum_epsilon:g}" if policy.maximum_epsilon else "no epsilon"
    told = f"{most} at most, arms {', '.join(policy.arms) or 'as limited'}"
    yield Check("policy", True, told)
    if "distributed-dp-sgd" in policy.arms:
        try:
            read_identity(site)
            peers = read_peers(site)
        except UserError as error:
            yield Check("policy", False, f"distributed-dp-sgd: {error}")
            return
        names = ", ".join(sorted(peers)) or "nobody yet"
        told = f"secure sums: the keys of {names} are pinned in {site.sum_peers}"
        yield Check("policy", True, told, note=True)
    yield from (Check("policy", True, text, note=True) for text in _remarks(policy))


def _remarks(policy: Policy) -> Iterator[str]:
    """What a policy allows, and what a reader of it may not expect."""
    exact = [arm for arm in policy.arms if not ARMS[arm].noised_at_home]
    if exact:
        yield (
            f"arms {', '.join(exact)}: updates leave without noise, so they protect nobody from "
            "the server"
        )
    if policy.delta * policy.public_size >= 1.0:
        yield (
            f"delta {policy.delta:g} is no less than 1 / public-size: one of {policy.public_size} "
            "patients could be given away whole; choose a smaller delta"
        )
    if not policy.apps:
        yield "apps is empty: the node runs whatever app the server sends; name its SHA-256"


def _connection(site: SiteFile, look: Look) -> Iterator[Check]:
    path = site.where.parent / NAME
    first, *others = _CONNECTION
    try:
        connection = read_connection(path)
    except UserError as error:
        yield Check(first, False, str(error))
        yield from _skipped(others, first)
        return
    yield Check(first, True, f"{path}: {connection.address}")
    checks = look(connection)
    yield from checks
    wrong = [check.name for check in checks if not check.ok]
    if not wrong:
        yield _registered(connection)
        return
    # A bad key stops nothing else, and a server that is away everything after it.
    done = {check.name for check in checks}
    yield from _skipped((name for name in _REACHED if name not in done), wrong[-1])
    yield from _skipped(("registered",), wrong[-1])


def _registered(connection: Connection) -> Check:
    from fedmed.site.registered import registered

    try:
        node = registered(connection)
    except OSError as error:
        return Check("registered", False, f"{connection.address}: {error}; try again", later=True)
    if node is None:
        text = (
            f"the server does not take the key, or its SuperNode is running already; send "
            f"{connection.key}.pub to the coordinator: flwr supernode register"
        )
        return Check("registered", False, text)
    return Check("registered", True, f"as node {node} (found by joining for a moment)")


def _data(site: SiteFile) -> Iterator[Check]:
    # The last of a request's keys are not known before it comes: here with their defaults.
    from fedmed.data.network import load_network
    from fedmed.data.remarks import remarks

    try:
        settings = site_settings(site, {"evaluation.where": "hospitals"}).used
        for key in ("path", "images", "index"):
            _readable(str(site.data.get(f"data.{key}", "")), f"data.{key}")
        network = load_network(settings.data)
        training = network.training(network.names[0])
        table = network.cohort.table
        names = list(training.table["image"])
        some = names[:: max(1, len(names) // _SAMPLE)][:_SAMPLE]
        _look([(name, network.cohort.images.read(name)) for name in some])
    except UserError as error:
        yield Check("data", False, str(error))
        yield from _skipped(("patients", "cohort"), "data")
        return
    yield Check("data", True, f"{len(table)} images, {len(training)} for training")
    for note in remarks(settings.data):
        yield Check("data", True, note, note=True)
    shared = table.groupby("patient_id")["split"].nunique()
    if (shared > 1).any():
        text = f"{int((shared > 1).sum())} patients are in several splits; set data.split"
        yield Check("patients", False, text)
    else:
        yield Check("patients", True, f"{len(shared)}, each in one split only")
    yield from _cohort(site, int(training.table["patient_id"].nunique()))


def _look(images: list[tuple[str, Any]]) -> None:
    """Refuse flat images of which nothing is left; a volume's window comes with a request."""
    from fedmed.data.brightness import check_left, measured
    from fedmed.data.decode import to_square
    from fedmed.data.volume import Volume

    flat = [(name, image) for name, image in images if not isinstance(image, Volume)]
    if flat:
        measures = [measured(to_square(image, _SIDE), image) for _, image in flat]
        check_left(np.array(measures), [name for name, _ in flat], flat=True)


def _readable(path: str, key: str) -> None:
    if path and present(Path(path)) and not os.access(path, os.R_OK):
        raise UserError(
            f"{key} = '{path}': this user may not read it; give the guard's user that right"
        )


def _cohort(site: SiteFile, patients: int) -> Iterator[Check]:
    try:
        policy = read_policy(site.policy)
    except UserError:
        yield from _skipped(("cohort",), "policy")
        return
    least = policy.minimum_cohort
    if patients < least:
        text = f"{patients} training patients, and the policy's minimum-cohort is {least}: " + (
            "the guard will not start; lower it, or add patients"
        )
        yield Check("cohort", False, text)
        return
    yield Check("cohort", True, f"{patients} training patients; minimum-cohort is {least}")
    declared = policy.public_size
    if declared and not 0.5 <= patients / declared <= 2.0:
        text = f"public-size is {declared}, and {patients} patients are in training: updates are "
        text += "divided by the declared size, so that they are far too small or too large"
        yield Check("cohort", True, text, note=True)


def _device(site: SiteFile) -> Check:
    import torch

    wanted = str(site.settings.get("run.device", Settings().run.device))
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        text = "run.device is cuda and there is none; install the driver and start the GPU image"
        return Check("device", False, text)
    named = torch.cuda.get_device_name() if there and wanted != "cpu" else "no GPU, training on CPU"
    return Check("device", True, named)


def _disk(site: SiteFile) -> Check:
    folder = _existing(site.ledger.parent)
    free = shutil.disk_usage(folder).free
    if free < SPACE:
        text = f"{free / 2**30:.1f} GiB free at {folder}; free {SPACE / 2**30:.0f} GiB"
        return Check("disk", False, text)
    return Check("disk", True, f"{free / 2**30:.0f} GiB free")


def _ledger(site: SiteFile) -> Check:
    try:
        ledger = regular(Ledger(site.ledger, site.audit, patience=5.0))
        rows = "none yet; the guard's first request makes it"
        if present(site.ledger) or present(ledger.log.path):
            rows = f"{ledger.verify()} rows, whole"
    except (RunError, UserError) as error:
        return Check("ledger", False, str(error))
    for path in dict.fromkeys((site.ledger, site.audit)):
        if text := _unwritable(path):
            return Check("ledger", False, text)
    return Check("ledger", True, rows)


def _unwritable(path: Path) -> str:
    """Why ``path`` cannot be written, and what to do; "" where it can."""
    remedy = "nothing is trained without a ledger that can be written"
    if present(path) and not os.access(path, os.W_OK):
        return f"{path} cannot be written; mount its volume writable for the guard's user: {remedy}"
    folder = _existing(path.parent)
    try:
        # SQLite makes files beside the ledger.
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return (
            f"{folder} cannot be written ({error.strerror}); mount it writable for the guard's "
            f"user: {remedy}"
        )


def _existing(folder: Path) -> Path:
    while not is_folder(folder):
        folder = folder.parent
    return folder
