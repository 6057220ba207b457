"""Whether the app's user could replace a file that decides: owner, rights, folders and links."""

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from fedmed.base.errors import UserError
from fedmed.site.file import SiteFile

_MOST_LINKS: Final = 40  # on the way to one file, as the kernel follows
_DATA: Final = ("data.path", "data.images", "data.index")


def check_site(site: SiteFile, peers: Collection[int]) -> None:
    """Raise :class:`UserError` where a peer could replace what the site rests on.

    That is the site's file and policy, ledger and log, the socket's folder and the data. Users who
    may neither connect nor write are not looked at: who administers a machine is the site's choice.
    """
    for path in (site.where, site.policy, site.ledger, site.audit, site.socket.parent):
        check_path(path, peers)
    for key in _DATA:
        named = Path(str(site.data.get(key, "")))
        if named.is_absolute():
            check_path(named, peers)


def check_path(path: Path, peers: Collection[int]) -> None:
    """Raise :class:`UserError` naming the first place on the way to ``path`` that is not safe.

    Safe is what no peer owns and nobody but its owner may write to; in a folder with the sticky bit
    (``/tmp``) nobody else may rename or remove either. What does not exist yet is as safe as the
    folder in which it would be made.
    """
    strangers = set(peers) - {0, os.getuid()}
    sticky: Path | None = None
    try:
        for place in _places(path.expanduser().absolute()):
            try:
                status = place.lstat()
            except FileNotFoundError:
                break
            if status.st_uid in strangers:
                raise UserError(
                    f"{place}: it belongs to user {status.st_uid}, as whom the app runs, so that "
                    f"the app could replace {path}; give it to root or to the guard's user (chown)"
                )
            sticky = None
            if stat.S_ISLNK(status.st_mode) or not status.st_mode & 0o022:
                continue
            if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
                sticky = place  # what is in it must exist already, and belong to no peer
                continue
            more = "" if place == path else f", and could replace {path}"
            raise UserError(f"{place}: other users may write to it{more}; run chmod go-w {place}")
    except OSError as error:
        raise UserError(
            f"{path} cannot be looked at ({error.strerror}); correct the path, or give the "
            "guard's user that right"
        ) from error
    if sticky is not None:
        raise UserError(
            f"{path}: everybody may make it in {sticky}; choose a folder of the guard's own"
        )


def _places(path: Path) -> Iterator[Path]:
    """Every folder and link that leads to an absolute path, and what is there, in that order."""
    here, ahead, links = Path("/"), list(path.parts[1:]), 0
    yield here
    while ahead:
        name = ahead.pop(0)
        if name == "..":
            here = here.parent
            continue
        place = here / name
        yield place
        if not place.is_symlink():
            here = place
            continue
        links += 1
        if links > _MOST_LINKS:
            raise UserError(f"{path}: its links lead round in a circle; name the file itself")
        target = Path(os.readlink(place))
        if target.is_absolute():
            here = Path("/")
        ahead[:0] = [part for part in target.parts if part != "/"]
