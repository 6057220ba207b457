"""What is done to a file: cut, flipped bits, other encodings, values of another kind, no file."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from random import Random
from typing import Any

# Texts that terminals, spreadsheets, paths and pages could take for something else.
TEXTS = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "[bold red]x[/]",
    "[link=https://example.org]x[/link]",
    "[/closed]",
    ":smile:",
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "a\r\nb",
    "a\x00b",
    "\u202etxt.exe",
    "\u2066x\u2069",
    "\u2028",
    "\ud800",
    "<script>alert(1)</script>",
    "{{ 7*7 }}",
    "%s%n{0}",
    "../../etc/passwd",
    "/etc/passwd",
    "~root/x",
    "con",
    "." * 3,
    "",
    " ",
    "x" * 300,
    "é" * 200,
    "\u0000",
    "007",
    "nan",
    "inf",
    "1e400",
    "٣",
    "²",
    "True",
)
NUMBERS: tuple[Any, ...] = (
    0, -1, -0.0, 0.5, 1e-320, 5e-324, 4.4e-45, 1e30, 1e308, float("nan"), float("inf"),
    float("-inf"), 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**18, 10**30,
    10**400, True, False, 255, 256, 65536,
)  # fmt: skip


def text(rng: Random) -> str:
    """An awkward text."""
    return rng.choice(TEXTS)


def value(rng: Random, depth: int = 0) -> Any:
    """A value of any kind, as JSON has them."""
    what = rng.randrange(8 if depth < 2 else 5)
    if what < 2:
        return text(rng)
    if what < 4:
        return rng.choice(NUMBERS)
    if what == 4:
        return None
    if what == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if what == 6:
        return {text(rng): value(rng, depth + 1) for _ in range(rng.randrange(3))}
    return nested(rng.choice((3, 40, 200)))


def nested(depth: int) -> Any:
    """Lists in lists."""
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


def cut_or_flip(rng: Random, data: bytes) -> tuple[bytes, str]:
    """The data with bits flipped, bytes set, a part cut out, repeated or cut off, and what."""
    changed = bytearray(data)
    what = rng.choice(("flip", "flip", "set", "cut off", "cut out", "repeat", "insert", "early"))
    # The start of a file holds its header: half of all places lie in it.
    most = len(changed) if rng.random() < 0.5 else min(len(changed), 400)
    at = rng.randrange(max(1, most))
    if what == "flip":
        for _ in range(rng.choice((1, 1, 3, 20, 200))):
            changed[rng.randrange(max(1, most))] ^= 1 << rng.randrange(8)
    elif what == "set":
        for place in range(at, min(len(changed), at + rng.choice((1, 2, 4, 8)))):
            changed[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    elif what == "cut off":
        del changed[at:]
    elif what == "cut out":
        del changed[at : at + rng.choice((1, 2, 16, 100))]
    elif what == "repeat":
        changed[at:at] = changed[at : at + rng.choice((1, 16, 1000))]
    elif what == "insert":
        changed[at:at] = rng.randbytes(rng.choice((1, 4, 50)))
    else:
        del changed[rng.randrange(1, max(2, len(changed))) :]
    return bytes(changed), f"{what} at {at}"


def encoded(rng: Random, plain: str) -> tuple[bytes, str]:
    """A text in an encoding that nobody expects, and which."""
    how = rng.choice(("bom", "utf-16", "utf-32", "latin", "nul", "surrogate", "cr", "ff"))
    made = {
        "bom": b"\xef\xbb\xbf" + plain.encode(),
        "utf-16": plain.encode("utf-16"),
        "utf-32": plain.encode("utf-32"),
        "latin": ("# é\n" + plain).encode("latin-1", "replace"),
        "nul": plain.replace("e", "\0", 1).encode(),
        "surrogate": b"# \xed\xa0\x80\n" + plain.encode(),
        "cr": plain.replace("\n", "\r").encode(),
        "ff": b"\xff\xfe\xff" + plain.encode(),
    }
    return made[how], how


PLACES = (
    "absent", "empty", "folder", "fifo", "socket", "zero", "full", "dangling", "loop", "itself",
    "memory", "sparse", "long", "through",
)  # fmt: skip
HARMFUL = tuple(place for place in PLACES if place not in ("empty",))


def placed(rng: Random, path: Path, among: tuple[str, ...] = PLACES) -> tuple[Path, str]:
    """Put something else where a file is due; the path to name, and what was put there."""
    what = rng.choice(among)
    if path.is_dir() and not path.is_symlink():
        path = path.with_name(path.name + "-other")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if what == "empty":
        path.touch()
    elif what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket has 107 characters at most
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(here)
    elif what in ("zero", "full"):
        path.symlink_to(f"/dev/{what}")
    elif what == "dangling":
        path.symlink_to("nowhere")
    elif what == "loop":
        other = path.with_name(path.name + ".loop")
        other.symlink_to(path.name)
        path.symlink_to(other.name)
    elif what == "itself":
        path.symlink_to(path.name)
    elif what == "memory":
        path.symlink_to("/proc/self/mem")
    elif what == "sparse":
        with path.open("wb") as made:
            made.truncate(5 << 30)
    elif what == "long":
        return path.with_name("n" * 300 + path.suffix), what
    elif what == "through":
        path.touch()
        return path / f"below{path.suffix}", what
    return path, what
