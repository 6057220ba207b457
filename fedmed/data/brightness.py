"""What is left of finished pictures: levels, black and white, brightness beside their hospital's.

A wrong window, rescale or depth makes no error, only a bad picture. Each picture is measured as it
goes into a shard; what is measured stays where the images are.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.base.errors import UserError
from fedmed.data.volume import Volume

MEASURES: Final = ("levels", "black", "white", "median", "spread", "air", "tissue")
"""Grey levels used; shares at 0 and at 255; median, and 90th less 10th percentile, both in [0, 1].

Of CT in HU the shares of voxels below -300 and of those from -200 to 200; NaN of other images.
"""

FEWEST_LEVELS: Final = 4
"""A flat picture of fewer grey levels is refused, and any of one brightness."""

_FEW_LEVELS: Final = 32
_ALMOST_ALL: Final = 0.95
_LEAST_AIR, _LEAST_TISSUE = 0.001, 0.01
_ENOUGH: Final = 8  # pictures of a hospital, to say what is usual there
_FAR: Final = 0.3  # of brightness, from the rest of a hospital
_FAR_HOSPITALS: Final = 0.25  # of brightness, from the other hospitals
_NAMED: Final = 3
_LOOKED_AT: Final = 1_000_000  # voxels of a volume


def measured(picture: NDArray[np.uint8], image: NDArray[np.float32] | Volume) -> list[float]:
    """The :data:`MEASURES` of a finished picture, and of the image it was made from."""
    counts = np.bincount(picture.ravel(), minlength=256)
    below = np.cumsum(counts) / picture.size
    tenth, median, ninth = (float(np.searchsorted(below, q)) / 255 for q in (0.1, 0.5, 0.9))
    air = tissue = np.nan
    if isinstance(image, Volume) and image.hounsfield:
        step = max(1, round((image.voxels.size / _LOOKED_AT) ** (1 / 3)))
        some = image.voxels[::step, ::step, ::step]
        air = float((some < -300).mean())
        tissue = float(((some >= -200) & (some <= 200)).mean())
    shares = counts[[0, 255]] / picture.size
    return [float((counts > 0).sum()), *shares.tolist(), median, ninth - tenth, air, tissue]


def check_left(measures: NDArray[np.floating[Any]], names: Sequence[str], flat: bool) -> None:
    """Refuse pictures of which nothing is left; :class:`UserError` names them, ``names`` in order.

    ``measures`` has a row for each. ``flat``: not of volumes, whose masks have two levels.
    """
    bad = np.flatnonzero(measures[:, 0] < (FEWEST_LEVELS if flat else 2))
    if not len(bad):
        return
    one = measures[bad[0], 0] < 2
    what = "one brightness all over" if one else f"fewer than {FEWEST_LEVELS} grey levels"
    more = f" (and {len(bad) - 1} more images)" if len(bad) > 1 else ""
    raise UserError(
        f"{names[bad[0]]}{more}: {what}, so that nothing is left of the picture; its window, "
        "rescale or bits lie off its values, or nothing was exposed: correct that or drop its row"
    )


def findings(pictures: pd.DataFrame, flat: bool, *, named: bool = True) -> list[str]:
    """What looks wrong with pictures, a line for each kind and hospital: how many, and which.

    ``pictures`` has the columns ``hospital``, ``image`` and :data:`MEASURES`; ``flat``: they are
    not of volumes. Without ``named`` only numbers are told.
    """
    remarks: list[str] = []
    for hospital, here in pictures.groupby("hospital", sort=False):
        for what, odd in _kinds(here, flat):
            if odd.any():
                remarks.append(f"{hospital}: {_counted(here, odd, named)} {what}")
    return [*remarks, *_hospitals(pictures)]


def _kinds(here: pd.DataFrame, flat: bool) -> Iterable[tuple[str, pd.Series]]:
    if flat:
        few = here["levels"] < _FEW_LEVELS
        yield f"of under {_FEW_LEVELS} grey levels: are more bits declared than used?", few
        yield "of almost all black", here["black"] > _ALMOST_ALL
        yield "of almost all white", here["white"] > _ALMOST_ALL
    yield "without air: are the values HU + 1024?", here["air"] < _LEAST_AIR
    yield "without soft tissue: was the rescale applied twice?", here["tissue"] < _LEAST_TISSUE
    if len(here) >= _ENOUGH:
        off = (here["median"] - here["median"].median()).abs()
        far = off > max(_FAR, 6 * float(off.median()))
        yield "of a brightness far from the rest: inverted, or another scale?", far


def _counted(here: pd.DataFrame, odd: pd.Series, named: bool) -> str:
    count = int(odd.sum())
    names = here.loc[odd, "image"].head(_NAMED).astype(str)
    which = f" ({', '.join(names)}{', ...' if count > _NAMED else ''})" if named else ""
    return f"{count} of {len(here)} pictures{which}"


def _hospitals(pictures: pd.DataFrame) -> Iterable[str]:
    """Hospitals whose films are darker, brighter or flatter than those of all others."""
    groups = {str(name): rows for name, rows in pictures.groupby("hospital", sort=False)}
    usual = {name: rows[["median", "spread"]].median() for name, rows in groups.items()}
    for name, here in usual.items():
        others = [value for other, value in usual.items() if other != name]
        if not others or len(groups[name]) < _ENOUGH:
            continue
        rest = pd.DataFrame(others).median()
        if abs(here["median"] - rest["median"]) > _FAR_HOSPITALS:
            word = "darker" if here["median"] < rest["median"] else "brighter"
            yield (
                f"{name}: pictures {word} than at the others (median {here['median']:.2f}, there "
                f"{rest['median']:.2f}): is their scale the same?"
            )
        elif here["spread"] < rest["spread"] / 3:
            yield (
                f"{name}: pictures with less contrast than at the others ({here['spread']:.2f} "
                f"between dark and bright, there {rest['spread']:.2f}): is their scale the same?"
            )


def sampled(images: pd.Series, hospital: pd.Series, most: int) -> pd.DataFrame:
    """Up to ``most`` images of each hospital, spread evenly: columns ``hospital``, ``image``."""
    table = pd.DataFrame({"hospital": hospital.to_numpy(), "image": images.to_numpy()})
    parts = []
    for _, rows in table.groupby("hospital", sort=False):
        places = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
        parts.append(rows.iloc[np.unique(places)])
    return pd.concat(parts, ignore_index=True)


def tabled(
    names: Iterable[str], hospital: Iterable[str], measures: NDArray[np.float32]
) -> pd.DataFrame:
    """The table that :func:`findings` reads, from the measures of images in this order."""
    table = pd.DataFrame(measures, columns=list(MEASURES))
    table.insert(0, "image", list(names))
    table.insert(0, "hospital", list(hospital))
    return table
