"""The script that makes a page's figures live: bundled once, then kept."""

from importlib.metadata import version
from pathlib import Path
from typing import Final

from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.base.opening import MIB, present, read_bytes

_MOST: Final = 8 * MIB  # of a bundle; Vega, Vega-Lite and Vega-Embed together have one
_ENTRY: Final = "window.vegaEmbed"  # what the page calls


def kept(vega_lite: str) -> str | None:
    """The script in the cache; None where it is not there, cannot be read or is damaged."""
    path = _place(vega_lite)
    if not present(path):
        return None
    try:
        text = read_bytes(path, _MOST).decode()
    except (UserError, UnicodeDecodeError):
        return None
    return text if _ENTRY in text else None


def keep(vega_lite: str, script: str) -> None:
    """Put the script there; a cache that cannot be written costs the next report two seconds."""
    try:
        files.write_text(_place(vega_lite), script)
    except UserError:
        return


def _place(vega_lite: str) -> Path:
    name = f"vega-lite-{vega_lite}-vl-convert-{version('vl-convert-python')}.js"
    return files.home() / "cache" / "scripts" / name
