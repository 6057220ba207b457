"""Names of images in tables and in folders, each in the spelling of its own system."""

import unicodedata
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from fedmed.base.errors import UserError
from fedmed.data.sources.locating import Missing, located
from fedmed.data.stores import FolderStore, ZipStore


def folder(root: Path, *names: str) -> FolderStore:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return FolderStore(root)


def find(store: FolderStore | ZipStore, *names: str, missing: Missing = "refuse") -> list[str]:
    places, _, _ = located(pd.Series(names), store, "t.csv", "films", missing)
    return places.dropna().tolist()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a/1.png", "a/1.png"),
        ("./a/1.png", "a/1.png"),
        ("1.png", "a/1.png"),
        ("1", "a/1.png"),
        ("a/1", "a/1.png"),
        ("1.PNG", "a/1.png"),
        ("a\\1.png", "a/1.png"),
        ("set\\a\\1.png", "a/1.png"),
        ("set/a/1.png", "a/1.png"),
        ("1.2.840.113", "1.2.840.113.dcm"),
        ("series", "series"),
        ("set/series", "series"),
    ],
)
def test_a_name_is_found_however_it_is_written(tmp_path: Path, name: str, place: str) -> None:
    store = folder(tmp_path, "a/1.png", "a/10.png", "1.2.840.113.dcm", "series/s1.dcm")
    assert find(store, name) == [place]


def test_composed_and_decomposed_letters_are_the_same(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "jörg.png")
    assert find(folder(tmp_path, apart), "jörg.png") == [apart]
    assert find(folder(tmp_path / "b", "jörg.png"), apart) == ["jörg.png"]


def test_what_could_be_two_images_is_refused(tmp_path: Path) -> None:
    store = folder(tmp_path, "a/1.png", "b/1.png", "2.png", "2.dcm", "X.png", "x.png")
    for name, both in (("1.png", "a/1.png' and 'b/1.png"), ("2", "2.dcm' and '2.png")):
        with pytest.raises(UserError, match=f"row 1: image '{name}' is in films as '{both}'"):
            find(store, name)
    assert find(store, "X.png", "b/1.png") == ["X.png", "b/1.png"]


def test_what_macos_leaves_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "films.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("films/1.png", "__MACOSX/films/._1.png", "__MACOSX/films/1.png", ".DS_Store"):
            archive.writestr(name, b"")
    assert find(ZipStore(path), "1.png") == ["films/1.png"]


def test_pitfall_another_hospitals_film_is_taken_for_ones_own(tmp_path: Path) -> None:
    """A folder that tells two names apart is not taken away; one that all share is."""
    store = folder(tmp_path / "siteA", "p1/1.png", "p2/1.png")
    both = pd.Series(["siteA/p1/1.png", "siteB/p2/1.png"])
    places, absent, _ = located(both, store, "t.csv", str(store.root), "leave-out")
    assert places.dropna().tolist() == ["p1/1.png"]
    assert absent == [1]
    for shared in ("export/2020/", "C:\\d\\", "siteB/"):
        assert find(store, f"{shared}p1/1.png", f"{shared}p2/1.png") == ["p1/1.png", "p2/1.png"]


def test_part_of_a_collection(tmp_path: Path) -> None:
    store = folder(tmp_path, "1.png", "3.png")
    given = pd.Series(["1.png", "2.png", "3.png", "4.png", ""])
    with pytest.raises(UserError, match=r"row 2: image '2.png' .*nor are 1 others of 5.*leave-out"):
        located(given, store, "t.csv", "films", "refuse")
    places, absent, notes = located(given, store, "t.csv", "films", "leave-out")
    assert absent == [1, 3], "an empty name is no image that is missing"
    assert places.tolist()[::2][:2] == ["1.png", "3.png"]
    assert notes == ["2 of 5 rows left out, whose images are not there (data.missing-images)"]


def test_another_folder_is_not_a_part_of_a_collection(tmp_path: Path) -> None:
    for missing in ("refuse", "leave-out"):
        with pytest.raises(UserError, match=r"nor is any other of 2; correct data.images"):
            find(folder(tmp_path, "9.png"), "1.png", "2.png", missing=missing)
