"""A cohort from a file's or a dict's keys."""

from pathlib import Path

from support import refuses

from fedmed.data import read_cohort, read_network

TOML = '[data]\nsource = "phantom"\npatients = 80\nhospitals = 2\n[train]\nrounds = 3\n'


def test_a_file_and_its_keys_are_one_cohort(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TOML, encoding="utf-8")
    one, two = read_cohort(path), read_cohort({"patients": 80})
    assert one.table.equals(two.table)
    assert read_network(str(path)).names == ["hospital-1", "hospital-2"]


def test_relative_paths_are_from_the_files_folder(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[data]\nsource = "table"\npath = "a/f.csv"\nimages = "a"\n', encoding="utf-8")
    refuses(lambda: read_cohort(path), str(tmp_path / "a" / "f.csv"), "no such file")


def test_mistakes_name_the_key(tmp_path: Path) -> None:
    refuses(lambda: read_cohort(None), "source: give the path")  # type: ignore[arg-type]  # a user's mistake
    refuses(lambda: read_cohort({"patient": 80}), "data: unknown key 'data.patient'")
    path = tmp_path / "mine.toml"
    path.write_text("data = 3\n", encoding="utf-8")
    refuses(lambda: read_cohort(path), f"{path}: 'data' must be a table")


def test_a_table_that_changed_is_read_anew(tmp_path: Path) -> None:
    from support.docs import write_examples

    write_examples(tmp_path)
    films = tmp_path / "my-data" / "films.csv"
    keys = {"source": "table", "path": films, "images": tmp_path / "my-data" / "films"}
    few = {**keys, "hospitals": 1, "partition": "even"}
    before = len(read_network(few).cohort)
    rows = films.read_text(encoding="utf-8").splitlines()
    films.write_text("\n".join(rows[:-1]) + "\n", encoding="utf-8")
    assert len(read_network(few).cohort) == before - 1
