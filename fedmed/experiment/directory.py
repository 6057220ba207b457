"""The files of one run: an interrupted run resumes from them, a reader sees whole files."""

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedmed import __version__
from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.base.opening import check_regular, read_bytes
from fedmed.base.parsing import Unparsable, parse_json
from fedmed.config import Settings

EARLIER = 3
"""Checkpoints of rounds before the last that are kept."""

WAITING = ".updates-"
"""Begins the name of a folder of updates that wait in a first round."""

_STATE = "\0"  # before the names of what is no model; no hospital's name begins so
# Where a run happens does not change what it computes.
_PLACE = (
    "data.site-keys",
    "run.out",
    "run.ledgers",
    "run.policies",
    "run.sites",
    "run.pretrained",
    "run.device",
    "run.threads",
    "run.hospitals-per-gpu",
    "run.trackers",
    "train.timeout",
    "train.join-timeout",
    # Who is done without is the answer to what went wrong in between.
    "train.on-failure",
    "train.minimum-hospitals",
)


def save_arrays(
    path: Path, arrays: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write arrays as safetensors, atomically; a full disk is a :class:`UserError`.

    Arrays that share memory, as equal ones in a message may, are written one by one.
    """
    seen: set[int] = set()
    apart = {}
    for name, value in arrays.items():
        place = value.untyped_storage().data_ptr()
        apart[name] = value.clone() if place in seen else value.contiguous()
        seen.add(place)

    def write(temporary: Path) -> None:
        try:
            save_file(apart, temporary, metadata)
        except SafetensorError as error:
            # safetensors wraps the system's error in words: "... (os error 28)".
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error

    files.write_atomically(path, write)


@dataclass(frozen=True)
class RunDirectory:
    """One arm and seed's folder."""

    path: Path

    def open(self, settings: Settings, name: str) -> None:
        """Make the folder, or check that it belongs to a run with these very settings.

        Raises :class:`UserError` naming the first setting that differs.
        """
        config_path = self.path / "config.json"
        mine = {k: v for k, v in settings.to_flat().items() if k not in _PLACE}
        if config_path.exists():
            theirs = self._config("config", dict)
            for key, value in mine.items():
                if theirs.get(key) != value:
                    raise UserError(
                        f"{self.path} holds a run with {key} = {theirs.get(key)!r}, not {value!r}; "
                        "choose another --out, or delete that folder"
                    )
            return
        content = {
            "arm": name,
            "seed": settings.run.seed,
            "fedmed": __version__,
            # The run's name in the hospitals' ledgers: a run that is made again has another.
            "run": uuid.uuid4().hex,
            "config": mine,
        }
        files.write_json(config_path, content)

    @property
    def run(self) -> str:
        """The run's name in the hospitals' ledgers."""
        return str(self._config("run", str))

    def _config(self, key: str, kind: type) -> Any:
        """A value of ``config.json``; raises :class:`UserError` where it is of another kind."""
        path = self.path / "config.json"
        value = files.read_object(path).get(key)
        if not isinstance(value, kind):
            raise UserError(f"{path} is damaged: no {key}; delete {self.path} and run again")
        return value

    @property
    def finished(self) -> bool:
        """Whether the run has its result."""
        return (self.path / "result.json").is_file()

    def start(self) -> None:
        """A run that begins or goes on is not stopped, and nothing waits from before a crash."""
        (self.path / "stopped.json").unlink(missing_ok=True)
        for left in self.path.glob(f"{WAITING}*"):
            shutil.rmtree(left, ignore_errors=True)

    def stop(
        self,
        reason: str,
        rounds: int,
        *,
        present: list[str],
        absent: list[str],
        refused: list[str],
    ) -> None:
        """Say in ``stopped.json`` why a run cannot go on, after how many whole rounds, and who was
        there; the same command again goes on from there."""
        content = {
            "reason": reason,
            "rounds": rounds,
            "present": present,
            "absent": absent,
            "refused": refused,
            "resume": "mend the reason and start the same run again, with the same run.out",
        }
        files.write_json(self.path / "stopped.json", content)

    def history(self) -> list[dict[str, Any]]:
        """Rounds so far; a line that a crash cut short is dropped."""
        path = self.path / "history.jsonl"
        text = read_bytes(path, files.MOST_JSON) if path.exists() else b""
        entries: list[dict[str, Any]] = []
        for line in text.decode("utf-8", "replace").splitlines():
            try:
                entry = parse_json(line)
            except Unparsable:
                break
            if not isinstance(entry, dict) or not isinstance(entry.get("round"), int):
                break
            entries.append(entry)
        return entries

    def write_history(self, entries: list[dict[str, Any]]) -> None:
        """Replace the history by ``entries``."""
        text = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
        files.write_text(self.path / "history.jsonl", text)

    def save_checkpoint(
        self,
        round_number: int,
        models: Mapping[str, Mapping[str, Tensor]],
        best: int,
        clipping_norm: float | None = None,
        state: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """Keep the model(s) after a round: ``models`` by owner, ``best`` the round to select.

        ``clipping_norm`` is that of the next round where it changes from round to round, ``state``
        what the server's optimiser goes on with.
        """
        kept = {**{f"{_STATE}{name}": arrays for name, arrays in (state or {}).items()}, **models}
        arrays = {f"{o}/{n}": v.contiguous() for o, m in kept.items() for n, v in m.items()}
        # safetensors does not keep the order, and noise is drawn in the order of the arrays.
        order = json.dumps(list(arrays))
        metadata = {"round": str(round_number), "best": str(best), "order": order}
        if clipping_norm is not None:
            metadata["clipping_norm"] = repr(clipping_norm)
        save_arrays(self.path / "checkpoint.safetensors", arrays, metadata)

    def keep_earlier(self) -> None:
        """Keep the present checkpoint beside the next, in ``earlier/round-N.safetensors``.

        Put back as ``checkpoint.safetensors`` it lets the run go on from its round. The last
        :data:`EARLIER` are kept.
        """
        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            return
        with safe_open(path, "pt") as opened:
            number = int((opened.metadata() or {})["round"])
        folder = self.path / "earlier"
        with files.disk_errors(folder):
            folder.mkdir(exist_ok=True)
            kept = folder / f"round-{number}.safetensors"
            kept.unlink(missing_ok=True)
            try:
                os.link(path, kept)  # the next checkpoint is another file: this one stays as it is
            except OSError:  # a file system without links
                files.write_bytes(kept, path.read_bytes())
        checkpoints = sorted(folder.glob("round-*.safetensors"), key=_round_of)
        for old in checkpoints[:-EARLIER]:
            old.unlink(missing_ok=True)

    def load_checkpoint(self) -> tuple[int, int, dict[str, dict[str, Tensor]]] | None:
        """(round, selected round, models) of the last whole round, or None before the first."""
        loaded = self._load()
        if loaded is None:
            return None
        header, owners = loaded
        models = {name: arrays for name, arrays in owners.items() if not name.startswith(_STATE)}
        return int(header["round"]), int(header["best"]), models

    def server_state(self) -> dict[str, dict[str, Tensor]]:
        """The checkpoint's state of the server's optimiser; empty where there is none."""
        loaded = self._load()
        owners = {} if loaded is None else loaded[1]
        return {n.removeprefix(_STATE): a for n, a in owners.items() if n.startswith(_STATE)}

    def _load(self) -> tuple[dict[str, str], dict[str, dict[str, Tensor]]] | None:
        """The checkpoint's header and its arrays by owner."""
        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            return None
        try:
            # The arrays are the file's own pages, read when they are used. A later checkpoint is
            # another file under this name: it does not change them.
            check_regular(path, files.MOST_FILE)
            with safe_open(path, "pt") as opened:
                header = opened.metadata()
                arrays = {name: opened.get_tensor(name) for name in json.loads(header["order"])}
        except Exception as error:
            raise self._damaged() from error
        owners: dict[str, dict[str, Tensor]] = {}
        for key, value in arrays.items():
            owner, _, name = key.rpartition("/")  # a hospital's name may hold a slash
            owners.setdefault(owner, {})[name] = value
        return header, owners

    def _damaged(self) -> UserError:
        path = self.path / "checkpoint.safetensors"
        return UserError(f"{path} is damaged; delete {self.path} and run again")

    def clipping_norm(self) -> float | None:
        """The checkpoint's clipping norm, or None where there is none."""
        loaded = self._load()
        norm = None if loaded is None else loaded[0].get("clipping_norm")
        try:
            return None if norm is None else float(norm)
        except ValueError as error:
            raise self._damaged() from error

    def drop_checkpoint(self, *, earlier: bool = True) -> None:
        """A finished run needs no checkpoint; ``earlier``: nor those of the rounds before."""
        (self.path / "checkpoint.safetensors").unlink(missing_ok=True)
        if earlier:
            shutil.rmtree(self.path / "earlier", ignore_errors=True)
        shutil.rmtree(self.path / "selected", ignore_errors=True)

    def selected(self, round_number: int) -> "RunDirectory":
        """Where the model of a round that is or may become the selected one is kept."""
        return RunDirectory(self.path / "selected" / f"round-{round_number}")

    def keep_selected(self, round_number: int) -> None:
        """Drop every kept model but this round's, once the checkpoint names it."""
        for folder in (self.path / "selected").glob("round-*"):
            if folder.name != f"round-{round_number}":
                shutil.rmtree(folder, ignore_errors=True)


def _round_of(path: Path) -> int:
    """Of a kept checkpoint; a file with another name counts as the oldest."""
    number = path.stem.removeprefix("round-")
    return int(number) if number.isdecimal() and len(number) < 10 else -1
