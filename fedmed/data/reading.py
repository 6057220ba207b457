"""A cohort from the ``[data]`` keys of an experiment's file, or from the same keys in a dict."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmed import config
from fedmed.base.errors import UserError
from fedmed.base.paths import resolve_all
from fedmed.config import Data
from fedmed.data.cohort import Cohort
from fedmed.data.network import Network, forget, load_network
from fedmed.data.sources import load

Source = Mapping[str, Any] | Path | str


def read_cohort(source: Source) -> Cohort:
    """The cohort that an experiment's TOML names, or a dict of its ``[data]`` keys.

    Its ``table`` has one validated row per image, ``images.read(name)`` gives an image. Relative
    paths are taken from the file's folder, or from the present one. Raises :class:`UserError`
    naming the file, row or key and the remedy; docs/data.md has every key.

    >>> cohort = read_cohort({"source": "phantom", "patients": 100})
    >>> cohort.table["patient_id"].nunique()
    100
    >>> cohort.images.read(cohort.table["image"][0]).shape
    (128, 128)
    """
    return load(_data(source))


def read_network(source: Source) -> Network:
    """The same cohort with each image's ``split`` and hospital, patients on one side alone.

    >>> network = read_network({"patients": 300, "hospitals": 2, "partition": "even"})
    >>> network.names
    ['hospital-1', 'hospital-2']
    >>> int(network.cohort.table.groupby("patient_id")["split"].nunique().max())
    1
    """
    forget()
    return load_network(_data(source))


def _data(source: Source) -> Data:
    if isinstance(source, Mapping):
        nested: dict[str, Any] = {"data": config.plain(source)}
        where, folder = "data", Path()
    elif not isinstance(source, Path | str):
        raise UserError("source: give the path of an experiment's TOML, or a dict of [data] keys")
    else:
        path = Path(source)
        text = config.read_toml(path)
        # The model's keys too: some of the data's are checked against them.
        nested = {key: text[key] for key in ("data", "model") if key in text}
        where, folder = str(path), path.parent
    if not isinstance(nested.get("data", {}), dict):
        raise UserError(f"{where}: 'data' must be a table")
    resolve_all(nested, folder, ())
    return config.parse(nested, where).data
