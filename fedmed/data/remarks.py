"""What a person should know of a cohort before believing what comes of it.

Nothing here is refused: real collections hold such things, and only their owner knows better.
"""

from typing import Final

import pandas as pd

from fedmed.config import Data
from fedmed.data.cohort import Cohort
from fedmed.data.network import load_network
from fedmed.data.remembering import remembered

CROWD: Final = 20
"""Images of one patient from which on, at a tenth of all, its name may be a placeholder."""


@remembered(maxsize=2)
def remarks(data: Data) -> tuple[str, ...]:
    """What the source of ``data``, its patients and its files tell who holds them.

    Every image's digest is asked for, so each file is read once. No patient is named, but images
    are counted, which no epsilon covers: for the terminal, in no result and no report.
    """
    cohort = load_network(data).cohort
    counted = " ".join(cohort.remarks)
    notes = [note for note in cohort.notes if note not in counted]
    return (*notes, *cohort.remarks, *_crowded(cohort), *_twins(cohort))


def _crowded(cohort: Cohort) -> list[str]:
    """A patient of very many images may be many patients under one word."""
    counts = cohort.table["patient_id"].value_counts()
    most = int(counts.iloc[0])
    if len(counts) < 2 or most < CROWD or 10 * most < len(cohort):
        return []
    return [
        f"one patient has {most:,} of {len(cohort):,} images; if its name stands "
        "for 'not known', leave those cells empty"
    ]


def _twins(cohort: Cohort) -> list[str]:
    """The same file under two patients, or on both sides of a split."""
    table = cohort.table
    digests = pd.Series(
        [cohort.images.digest(str(name)) for name in table["image"]], index=table.index
    )
    alike = table[digests.duplicated(keep=False)]
    if alike.empty:
        return []
    by_file = alike.groupby(digests[alike.index])
    people = int((by_file["patient_id"].nunique() > 1).sum())
    sides = int((by_file["split"].nunique() > 1).sum())
    if not people and not sides:
        return []
    return [
        f"{by_file.ngroups:,} files are there more than once, {people:,} of them "
        f"under two patients and {sides:,} in two splits; a person known under two names is "
        "protected less than stated, and a test image that was trained on scores too well"
    ]
