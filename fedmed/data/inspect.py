"""What is in a cohort: counts by hospital, label, sex and age band, images and brightness."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fedmed.base.files import write_atomically
from fedmed.data.brightness import MEASURES, check_left, findings, measured, sampled, tabled
from fedmed.data.cohort import SPLITS, Cohort
from fedmed.data.form import Form
from fedmed.data.network import Network
from fedmed.evaluation.tables.groups import AGE_LABELS, age_band

UNKNOWN = "unknown"
_LOOKED_AT = 640  # images, of all hospitals together
_OF_EACH = (4, 32)  # of a hospital, at least and at most
EVERYWHERE = "all"


def describe(table: pd.DataFrame) -> pd.DataFrame:
    """Counts of a table with ``split`` and ``hospital``: for everywhere, then for each hospital.

    Columns: ``hospital`` ("all" first), ``by`` ("all", "label", "sex" or "age band"), ``group``
    (its value, "unknown" where missing), ``images``, ``patients``, ``positive`` (images with label
    1), and images in ``train``, ``val`` and ``test``. Groups without images are left out.
    """
    groups = {
        "all": pd.Series(EVERYWHERE, index=table.index),
        "label": table["label"].astype("string"),
        "sex": _known(table, "sex"),
        "age band": _known(table, "age"),
    }
    hospitals = [EVERYWHERE, *sorted(table["hospital"].unique(), key=_natural)]
    rows = []
    for hospital in hospitals:
        here = (
            table["hospital"].notna() if hospital == EVERYWHERE else table["hospital"] == hospital
        )
        for by, values in groups.items():
            present = set(values[here])
            for group in sorted(present, key=_group_order):
                rows.append(_count(hospital, by, group, table[here & (values == group)]))
    return pd.DataFrame(rows)


def contact_sheet(
    cohort: Cohort, path: Path, *, count: int = 16, size: int = 128, form: Form | None = None
) -> None:
    """Write a PNG of ``count`` images of ``size`` pixels with their labels, half of each class.

    Images are spread evenly over the table, without names of images or patients. A volume shows
    its middle slice, in the window and spacing of ``form``. Raises :class:`UserError` where an
    image or ``path`` is bad.
    """
    form = form or Form(size)
    table = cohort.table.reset_index(drop=True)
    chosen: list[int] = []
    for label, wanted in ((0, count - count // 2), (1, count // 2)):
        rows = np.flatnonzero((table["label"] == label).to_numpy(dtype=bool))
        spread = np.linspace(0, len(rows) - 1, min(wanted, len(rows))).round().astype(int)
        chosen += [int(row) for row in rows[spread]]
    columns = max(1, min(len(chosen), round(len(chosen) ** 0.5)))
    caption, gap = 16, 4
    wide, high = size + gap, size + caption + gap
    lines = -(-len(chosen) // columns)
    heading = 18 if cohort.synthetic else 0
    sheet = Image.new("L", (columns * wide + gap, lines * high + gap + heading), 255)
    pen = ImageDraw.Draw(sheet)
    if cohort.synthetic:
        pen.text((gap, gap), "synthetic", fill=0)
    for place, row in enumerate(chosen):
        left = gap + place % columns * wide
        top = gap + heading + place // columns * high
        name = str(table["image"].iloc[row])
        image: NDArray[np.uint8] = form.preview(cohort.images.read(name), name, size)
        sheet.paste(Image.fromarray(image), (left, top))
        pen.text((left, top + size + 2), f"label {table['label'].iloc[row]}", fill=0)
    write_atomically(path, lambda temporary: sheet.save(temporary, format="PNG"))


@dataclass(frozen=True)
class Look:
    """Some images of each hospital, measured: what is odd about them, and their mean film."""

    pictures: pd.DataFrame  # hospital, image and brightness.MEASURES
    means: dict[str, NDArray[np.uint8]]  # by hospital, (SIDE, SIDE)
    flat: bool

    SIDE: ClassVar[int] = 128

    def findings(self) -> list[str]:
        """A line for each kind of odd picture at each hospital."""
        return findings(self.pictures, self.flat)

    def sheet(self, path: Path) -> None:
        """Write a PNG with each hospital's mean film over its brightness.

        The bar runs from black to white; on it the medians of the hospital's images, from the 10th
        to the 90th percentile, and a stroke at the median. Raises :class:`UserError` for a bad
        ``path``.
        """
        side, gap, below = self.SIDE, 4, 44
        columns = max(1, min(8, len(self.means)))
        lines = -(-len(self.means) // columns)
        size = (columns * (side + gap) + gap, lines * (side + below) + gap)
        sheet = Image.new("L", size, 255)
        pen = ImageDraw.Draw(sheet)
        for place, (hospital, mean) in enumerate(self.means.items()):
            left = gap + place % columns * (side + gap)
            top = gap + place // columns * (side + below)
            sheet.paste(Image.fromarray(mean), (left, top))
            here = self.pictures.loc[self.pictures["hospital"] == hospital, "median"]
            low, middle, high = (left + side * float(q) for q in here.quantile([0.1, 0.5, 0.9]))
            bar = top + side + 8
            pen.line((left, bar, left + side, bar), fill=200)
            pen.rectangle((low, bar - 2, high, bar + 2), fill=128)
            pen.line((middle, bar - 5, middle, bar + 5), fill=0)
            name = hospital.encode("ascii", "replace").decode()[:20]
            pen.text((left, bar + 6), f"{name}: {float(here.median()):.2f}", fill=0)
        write_atomically(path, lambda temporary: sheet.save(temporary, format="PNG"))


def look(network: Network, form: Form) -> Look:
    """Read up to 32 images of each hospital, spread evenly over the table, in ``form``.

    Raises :class:`UserError` for an image that cannot be read, or of which nothing is left.
    """
    least, most = _OF_EACH
    each = max(least, min(most, _LOOKED_AT // max(1, len(network.names))))
    some = sampled(network.cohort.table["image"], network.hospital, each)
    measures = np.empty((len(some), len(MEASURES)), dtype=np.float32)
    sums = {name: np.zeros((Look.SIDE, Look.SIDE)) for name in network.names}
    for row, (hospital, name) in enumerate(zip(some["hospital"], some["image"], strict=True)):
        image = network.cohort.images.read(name)
        measures[row] = measured(form.make(image, name), image)
        sums[hospital] += form.preview(image, name, Look.SIDE)
    check_left(measures, list(some["image"]), not form.volumes)
    counts = some["hospital"].value_counts()
    means = {name: np.rint(total / counts[name]).astype(np.uint8) for name, total in sums.items()}
    return Look(tabled(some["image"], some["hospital"], measures), means, not form.volumes)


def _known(table: pd.DataFrame, column: str) -> pd.Series:
    if column not in table.columns:
        return pd.Series(UNKNOWN, index=table.index)
    values = age_band(table["age"]) if column == "age" else table[column]
    return values.astype("string").fillna(UNKNOWN)


def _count(hospital: str, by: str, group: str, rows: pd.DataFrame) -> dict[str, str | int]:
    counts: dict[str, str | int] = {
        "hospital": hospital,
        "by": by,
        "group": group,
        "images": len(rows),
        "patients": int(rows["patient_id"].nunique()),
        "positive": int((rows["label"] == 1).sum()),
    }
    return counts | {split: int((rows["split"] == split).sum()) for split in SPLITS}


def _natural(name: str) -> tuple[str, int]:
    """``hospital-10`` after ``hospital-9``."""
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0)


def _group_order(group: str) -> tuple[int, str]:
    return (AGE_LABELS.index(group) if group in AGE_LABELS else len(AGE_LABELS)), group
