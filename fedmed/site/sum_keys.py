"""A site's keys for secure sums: its own, which signs, and those of its peers, which it has pinned.

``fedmed site init`` makes the own key. The peers' public keys are exchanged between hospitals, by
telephone or in a meeting, and never taken from the server: a server that chose them could put
itself between two hospitals.
"""

import json
from pathlib import Path
from typing import Final

from fedmed import config
from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.base.opening import MIB, read_bytes
from fedmed.secure_sum import Identity, SumRefused, read_public
from fedmed.site.certs import write_secret
from fedmed.site.file import SUM_KEY, SUM_PEERS, SiteFile

PUBLIC: Final = "keys/sum.pub"
PEERS: Final = SUM_PEERS


def read_identity(site: SiteFile) -> Identity:
    """The site's own key; raises :class:`UserError` naming the file and the remedy."""
    try:
        return Identity.from_pem(read_bytes(site.sum_key, MIB, "make it with fedmed site init"))
    except FileNotFoundError as error:
        raise UserError(f"{site.sum_key} is missing; make it with fedmed site init") from error
    except SumRefused as error:
        raise UserError(f"{site.sum_key}: {error}; make it with fedmed site init") from error


def read_peers(site: SiteFile) -> dict[str, bytes]:
    """The pinned public keys by hospital, without the site's own; raises :class:`UserError`."""
    given = config.read_toml(site.sum_peers)
    peers = {}
    for name, line in given.items():
        if not isinstance(line, str):
            raise UserError(f'{site.sum_peers}: {name}: write {name} = "{{its sum.pub}}"')
        try:
            peers[name] = read_public(line)
        except SumRefused as error:
            raise UserError(f"{site.sum_peers}: {name}: {error}; ask {name} for it") from error
    peers.pop(site.name, None)
    twice = [name for name, key in peers.items() if list(peers.values()).count(key) > 1]
    if twice:
        raise UserError(
            f"{site.sum_peers}: {' and '.join(sorted(twice))} have the same key; ask both again"
        )
    return peers


def template(name: str, public: str) -> str:
    """A ``sum-peers.toml`` with the site's own line, to be filled in with the others'."""
    return (
        "# Public keys for secure sums (distributed-dp-sgd), one line for each hospital of the\n"
        "# federation, as its sum.pub has it. Compare each by telephone with that hospital; never\n"
        "# take one from the coordinator. Give yours to the others:\n"
        f'{json.dumps(name)} = "{public}"\n'
    )


def write_identity(folder: Path) -> str:
    """A fresh key in a site's folder, for its owner alone; returns its public line."""
    identity = Identity.new()
    with files.disk_errors(folder):
        (folder / SUM_KEY).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secret(folder / SUM_KEY, identity.pem)
    files.write_text(folder / PUBLIC, identity.public_line + "\n")
    return identity.public_line
