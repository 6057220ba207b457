"""data.bits-stored: declared once for a hospital, and nothing else decides how films are scaled."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import goes_red, refuses
from support.images import picture

from fedmed import config
from fedmed.data.reading import read_cohort
from fedmed.data.sources.phantom import load as phantom

FILMS = 8


def written(folder: Path, shift: dict[str, int], films: int = FILMS) -> dict[str, object]:
    """A cohort of phantom films in 16-bit PNG; ``shift`` bits fewer at each site."""
    (folder / "films").mkdir()
    drawn = phantom(config.parse({"data": {"patients": 40}}, "x").data)
    rows = []
    for row in range(films):
        site = sorted(shift)[row % len(shift)]
        film = drawn.images.read(str(drawn.table["image"][row]))
        values = np.rint(np.asarray(film) * 65535).astype(np.uint16) >> shift[site]
        (folder / "films" / f"{row}.png").write_bytes(picture(values))
        rows.append({"image": f"{row}.png", "label": row // 2 % 2, "patient_id": row, "site": site})
    pd.DataFrame(rows).to_csv(folder / "films.csv", index=False)
    return {"source": "table", "path": str(folder / "films.csv"), "images": str(folder / "films")}


def test_each_hospital_is_scaled_by_its_own_bits(tmp_path: Path) -> None:
    """Sabotage: one scale for all leaves the 12-bit hospital's films black."""

    def alike(bits: str) -> None:
        cohort = read_cohort({**keys, "bits-stored": bits})
        means = [float(np.asarray(cohort.images.read(n)).mean()) for n in cohort.table["image"]]
        assert min(means) > 0.2

    keys = written(tmp_path, {"north": 4, "south": 0})
    alike("north=12, south=16")
    alike("12, south=16")
    goes_red(alike, "16")
    cohort = read_cohort({**keys, "bits-stored": "north=12, south=16"})
    assert "16-bit files hold values of these bits" in cohort.notes[0]
    assert "12 at north, 16 at south" in cohort.notes[0]


def test_undeclared_files_of_12_bits_are_refused_with_the_key(tmp_path: Path) -> None:
    cohort = read_cohort(written(tmp_path, {"north": 4}))
    refuses(lambda: cohort.images.read("0.png"), "0.png", "set data.bits-stored = '12'")


def test_other_bits_are_other_pixels_of_the_same_image(tmp_path: Path) -> None:
    keys = written(tmp_path, {"north": 4})
    plain, twelve, deep = (
        read_cohort({**keys, **more}).images
        for more in ({}, {"bits-stored": "12"}, {"bits-stored": 16})
    )
    digests = {store.digest("0.png") for store in (plain, twelve, deep)}
    assert len(digests) == 3, "a cached shard of another scale would be taken"
    assert plain.identity("0.png") == twelve.identity("0.png"), "patients would be drawn anew"


def test_a_film_more_changes_the_scale_of_no_other(tmp_path: Path) -> None:
    """Were it the largest value of the cohort, one patient's film would decide for all."""

    def unchanged(bits: str, tops: tuple[int, int]) -> None:
        pixels = []
        for number, top in enumerate(tops):
            folder = tmp_path / f"{bits}-{number}"
            folder.mkdir()
            keys = written(folder, {"north": 4})
            brighter = np.array([[0, 1], [1, top]], dtype=np.uint16)
            (folder / "films" / "7.png").write_bytes(picture(brighter))
            cohort = read_cohort({**keys, "bits-stored": bits})
            pixels.append(np.asarray(cohort.images.read("0.png")))
        np.testing.assert_array_equal(*pixels)

    unchanged("12", (900, 4095))


def test_a_site_that_is_not_there_is_named(tmp_path: Path) -> None:
    keys = written(tmp_path, {"north": 4, "south": 0})
    refuses(
        lambda: read_cohort({**keys, "bits-stored": "nroth=12"}),
        "data.bits-stored", "no site 'nroth'", "use north, south",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        ("8", "'8' is not a number of bits from 9 to 16"),
        ("twelve", "'twelve' is not a number of bits"),
        ("north=", "'' is not a number of bits"),
        ("north=12, north=16", "a site has two values"),
    ],
)
def test_bits_that_mean_nothing_are_refused(bits: str, words: str) -> None:
    given = {"source": "table", "path": "a", "images": "b", "bits-stored": bits}
    refuses(lambda: config.parse({"data": given}, "x"), "data.bits-stored", words)


def test_a_source_without_files_has_no_bits() -> None:
    refuses(
        lambda: config.parse({"data": {"bits-stored": "12"}}, "x"),
        "data.bits-stored: the phantom source does not read it (only table)",
    )
