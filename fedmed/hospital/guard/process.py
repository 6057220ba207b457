"""The guard as a process: it tightens what it owns, says when it is ready, and ends on a signal."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.federation.members import patients_of
from fedmed.hospital.guard.answering import Guard
from fedmed.hospital.guard.listening import alone, bound, peers_of, private_folder, serve
from fedmed.hospital.guard.trusting import check_path, check_site
from fedmed.privacy.ledger.policy import Policy
from fedmed.site.file import SiteFile, read_site
from fedmed.site.settings import site_settings

log = logging.getLogger("fedmed.guard")


def run(path: Path, ready: Callable[[SiteFile], None]) -> None:
    """Guard the site of the file at ``path`` until a signal; ``ready`` hears when it listens.

    Raises :class:`UserError` or :class:`RunError` where it cannot guard.
    """
    site = read_site(path)
    os.umask(0o077)
    peers = peers_of(site)
    check_site(site, peers)
    for folder in (site.ledger.parent, site.audit.parent):
        if site.socket.is_relative_to(folder):
            raise UserError(
                f"{site.where}: the socket lies in {folder}, which is the guard's alone; give the "
                "ledger a folder of its own"
            )
    private_folder(site.ledger.parent)
    private_folder(site.audit.parent)
    os.environ.setdefault("FEDMED_HOME", str(site.ledger.parent / "home"))
    private_folder(files.home())  # decoded images lie there
    check_path(files.home(), peers)
    for uid in peers:
        if uid in (0, os.getuid()):
            log.warning(
                "the app may run as user %d, which can read whatever the guard can: run the guard "
                "as a user of its own and name the app's in peers",
                uid,
            )
    if _others_read(Path(str(site.data.get("data.path", "")))):
        log.warning("other users may read data.path; take that right from them (chmod o-r)")
    stop = threading.Event()
    with alone(site.ledger):
        guard = Guard.open(site)
        _check_cohort(site, guard.policy)
        with bound(site.socket, peers) as listener:
            for number in (signal.SIGTERM, signal.SIGINT):
                # What is being trained is paid for: it is finished and stored first.
                signal.signal(number, lambda *_: stop.set())
            guard.ledger.note("guard started", site=site.name)
            ready(site)
            serve(listener, peers, guard.answer, guard.refuse, lambda: not stop.is_set())


def _check_cohort(site: SiteFile, policy: Policy) -> None:
    """Compare the true number of patients with ``minimum-cohort``, once and for no one who asks.

    Requests are held to the declared size alone: a refusal by the true one would count patients.
    """
    if not policy.minimum_cohort:
        return
    # Keys that only a request names have their defaults here, as in ``fedmed doctor``.
    settings = site_settings(site, {"evaluation.where": "hospitals"}).used
    patients = patients_of(settings, site.name)
    if patients < policy.minimum_cohort:
        raise UserError(
            f"{site.policy}: minimum-cohort = {policy.minimum_cohort}, and {patients} patients are "
            "in training; lower it, or add patients"
        )


def _others_read(path: Path) -> bool:
    """Whether the mode of a file and of the folders above it lets every user read it."""
    try:
        folders = all(folder.stat().st_mode & 0o001 for folder in path.absolute().parents)
        return path.is_file() and folders and bool(path.stat().st_mode & 0o004)
    except OSError as error:
        raise UserError(
            f"data.path: {path} cannot be reached ({error.strerror}); check path and rights"
        ) from error
