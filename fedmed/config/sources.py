"""The sources of cohorts: one row for each, in the facts by which settings are checked.

To add a source, add its row here and a module of its name in ``fedmed.data.sources``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a source reads.

    ``reads`` are keys of ``[data]`` that not all sources read. ``needs`` says of those that must be
    given what they name, in words for a message. ``columns`` is whether ``[data.columns]`` renames
    its columns, ``volumes`` whether it has any.
    """

    name: str
    reads: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    columns: bool = False
    volumes: bool = True


_ROWS = (
    Source(name="phantom"),
    Source(name="medmnist", reads=("path", "index"), needs={"path": "it"}),
    Source(name="kermany", reads=("path", "index"), needs={"path": "it"}, volumes=False),
    Source(
        name="table",
        reads=(
            "path",
            "images",
            "mapping",
            "positive",
            "negative",
            "separator",
            "missing_images",
            "bits_stored",
        ),
        needs={"path": "a CSV or Parquet file", "images": "a folder or zip"},
        columns=True,
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _ROWS}
"""Every source by its name."""

KEYS: dict[str, tuple[str, ...]] = {
    key: tuple(source.name for source in _ROWS if key in source.reads)
    for key in dict.fromkeys(key for source in reversed(_ROWS) for key in source.reads)
}
"""Which sources read a key of ``[data]``; keys that are absent are read by all."""

MAPPINGS = (
    "nih-chestxray14",
    "chexpert",
    "mimic-cxr-jpg",
    "padchest",
    "rsna-pneumonia",
    "vindr-cxr",
    "covid-chestxray",
)
"""Public sets whose own tables ``table`` reads; each is a module in ``data.sources.mappings``."""

if TYPE_CHECKING:
    SourceName = str
    MappingName = str
else:
    SourceName = Literal[tuple(SOURCES)]
    MappingName = Literal[("", *MAPPINGS)]
