"""Digests that follow the content, damaged and absent files, pickles, threads, path traversal."""

import multiprocessing
import os
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import refuses

from fedmed.base.errors import UserError
from fedmed.base.files import home
from fedmed.data.stores import ArrayStore, FolderStore, ZipStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for number in range(8):
        grey = np.full((4, 4), number * 30, dtype=np.uint8)
        Image.fromarray(grey).save(root / "sub" / f"{number}.png")
    return root


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as file:
        for image in sorted(folder.rglob("*.png")):
            file.write(image, image.relative_to(folder))
    return path


def test_folder_digest_changes_with_the_bytes_and_not_with_the_place(folder: Path) -> None:
    store = FolderStore(folder)
    before = store.digest("sub/1.png")
    assert before == store.digest("sub/1.png")
    assert before != store.digest("sub/2.png")
    (folder / "copy.png").write_bytes((folder / "sub/1.png").read_bytes())
    assert store.digest("copy.png") == before
    state = (folder / "sub/1.png").stat()
    Image.fromarray(np.full((4, 4), 31, dtype=np.uint8)).save(folder / "sub/1.png")
    os.utime(folder / "sub/1.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert store.digest("sub/1.png") != before, "an edit with the old time must be seen"


def test_folder_digest_is_remembered_and_survives_a_broken_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = FolderStore(folder).digest("sub/3.png")
    again = FolderStore(folder)
    monkeypatch.setattr(again, "_bytes", lambda _: pytest.fail("read again"))
    assert again.digest("sub/3.png") == first
    assert (home() / "cache" / "digests.sqlite").is_file()
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path / "other"))
    (tmp_path / "other" / "cache").mkdir(parents=True)
    (tmp_path / "other" / "cache" / "digests.sqlite").write_bytes(b"not a database" * 100)
    assert FolderStore(folder).digest("sub/3.png") == first


@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "/etc/hostname"])
def test_no_name_leads_out_of_the_folder(folder: Path, name: str) -> None:
    (folder.parent / "secret.png").write_bytes(b"x")
    with pytest.raises(UserError, match="leads out of"):
        FolderStore(folder).read(name)
    with pytest.raises(UserError, match="leads out of"):
        FolderStore(folder).digest(name)


def test_absent_and_unreadable_files_are_named(folder: Path, archive: Path) -> None:
    with pytest.raises(UserError, match=r"9\.png: no such file"):
        FolderStore(folder).read("sub/9.png")
    with pytest.raises(UserError, match=r"sub/0\.png: no DICOM file"):
        FolderStore(folder).read("sub")
    with pytest.raises(UserError, match=r"images\.zip holds no 'sub/9\.png'"):
        ZipStore(archive).read("sub/9.png")
    with pytest.raises(UserError, match="no image 'train/000009'"):
        ArrayStore({"train": np.zeros((2, 4, 4), np.uint8)}).read("train/000009")


def test_zip_digest_follows_the_content(archive: Path) -> None:
    store = ZipStore(archive)
    digests = {store.digest(name) for name in store.names()}
    assert len(digests) == 8


def test_damaged_zips_are_named(archive: Path, tmp_path: Path) -> None:
    data = archive.read_bytes()
    (tmp_path / "half.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"half\.zip: not a zip file, or a damaged one"):
        ZipStore(tmp_path / "half.zip")
    with zipfile.ZipFile(archive) as file:
        info = file.getinfo("sub/5.png")
    start = info.header_offset + 30 + len("sub/5.png") + 20
    flipped = data[:start] + bytes([data[start] ^ 255]) + data[start + 1 :]
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(UserError, match=r"flipped\.zip: sub/5\.png cannot be unpacked"):
        ZipStore(tmp_path / "flipped.zip").read("sub/5.png")


def _brightness(store: ZipStore) -> list[float]:
    return [float(store.read(f"sub/{number}.png")[0, 0]) for number in range(8)]


def test_stores_survive_pickles_threads_and_forks(folder: Path, archive: Path) -> None:
    expected = [number * 30 / 255 for number in range(8)]
    store = ZipStore(archive)
    assert _brightness(pickle.loads(pickle.dumps(store))) == pytest.approx(expected)
    opened = FolderStore(folder)
    opened.digest("sub/0.png")
    copy = pickle.loads(pickle.dumps(opened))
    assert copy.digest("sub/0.png") == opened.digest("sub/0.png")
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: _brightness(store), range(8)):
            assert found == pytest.approx(expected)
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        assert processes.apply(_brightness, (store,)) == pytest.approx(expected)


def test_array_store_digest_depends_on_shape_and_bytes() -> None:
    flat = np.arange(32, dtype=np.uint8)
    a, b = ArrayStore({"t": flat.reshape(1, 4, 8)}), ArrayStore({"t": flat.reshape(1, 8, 4)})
    assert a.digest("t/000000") != b.digest("t/000000")
    assert a.digest("t/000000") == ArrayStore({"t": flat.reshape(1, 4, 8)}).digest("t/000000")


def test_a_link_that_leads_back_up_is_walked_once(tmp_path: Path) -> None:
    """Two such links in a folder made a walk of 2 to the 40 folders."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one.png").write_bytes(b"x")
    for name in ("up", "again"):
        (tmp_path / "a" / "b" / name).symlink_to(tmp_path)
        (tmp_path / "a" / name).symlink_to("..")
    assert list(FolderStore(tmp_path).names()) == ["a/one.png"]


@pytest.mark.timeout(20)
def test_an_image_that_is_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    store = FolderStore(tmp_path)
    refuses(lambda: store.read("pipe.png"), "pipe.png is a pipe")
    refuses(lambda: store.read("zero.png"), "zero.png is a device")
    assert "n" * 300 not in store
