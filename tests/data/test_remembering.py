"""Caches of data: emptied together, and none that stands apart."""

import ast
from pathlib import Path

import pytest
from support import goes_red, make

from fedmed.data import network, remembering
from fedmed.data.remembering import forget, remembered
from fedmed.hospital.hospital import hospital_for

FEDMED = Path(remembering.__file__).parents[1]
HOLDING = ("data", "federation", "training", "hospital")  # packages that see a hospital's rows
# Caches there that hold nothing of any data, and what they hold.
OF_NO_DATA = {
    "data/sources/radiograph.py:_grid": "coordinates of a drawn image",
    "federation/arrays.py:_header": "headers of messages",
    "federation/members.py:trained_parameters": "a count of parameters",
    "hospital/hospital.py:_model": "the model, whose whole state every round overwrites",
    "hospital/simulated.py:_settings": "settings",
}


def caches(place: str, source: str) -> set[str]:
    """Where a module makes caches of its own, by functools: the functions, or the place itself."""

    tree = ast.parse(source)
    kinds = {"cache", "lru_cache", "cached_property"}
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "functools"
        for alias in node.names
        if alias.name in kinds
    }
    names = imported | {f"functools.{kind}" for kind in kinds}

    def of(node: ast.AST) -> list[ast.AST]:
        found = [one for one in ast.walk(node) if isinstance(one, (ast.Name, ast.Attribute))]
        return [one for one in found if ast.unparse(one) in names]

    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    marked = {f.name: [one for mark in f.decorator_list for one in of(mark)] for f in functions}
    found = {f"{place}:{name}" for name, marks in marked.items() if marks}
    if len(of(tree)) > sum(len(marks) for marks in marked.values()):
        found.add(place)
    return found


@pytest.mark.usefixtures("tiny_hospitals")
def test_all_caches_of_data_are_emptied_at_once(tmp_path: Path) -> None:
    settings = make(run={"out": str(tmp_path)})
    data = settings.data
    of_data = (
        network.load_network,
        network.training_shard,
        network.evaluation_shard,
        network.held_out_shard,
        hospital_for,
    )
    hospital_for(settings, 0, 1)
    network.evaluation_shard(data, "hospital-1")
    network.held_out_shard(data)
    assert all(cache.cache_info().currsize > 0 for cache in of_data)
    forget()
    assert [cache.cache_info().currsize for cache in of_data] == [0] * len(of_data)


def test_a_new_cache_is_emptied_with_the_others() -> None:
    made = []

    @remembered(maxsize=2)
    def rows(name: str) -> int:
        made.append(name)
        return len(made)

    assert (rows("a"), rows("a"), rows("b")) == (1, 1, 2)
    forget()
    assert rows("a") == 3
    assert rows.cache_info().maxsize == 2


def test_no_cache_of_data_stands_apart() -> None:
    """Sabotage: a shard under ``lru_cache``, which a guard of another run would go on with."""
    paths = {path for name in HOLDING for path in (FEDMED / name).rglob("*.py")}
    paths.remove(Path(remembering.__file__))
    now = set[str]().union(
        *(caches(path.relative_to(FEDMED).as_posix(), path.read_text("utf-8")) for path in paths)
    )

    def check(more: str) -> None:
        assert now | caches("data/new.py", more) == OF_NO_DATA.keys()

    check("@remembered(maxsize=2)\ndef shards(): ...\n")
    goes_red(check, "@functools.lru_cache(maxsize=2)\ndef shards(): ...\n")
    goes_red(check, "from functools import cache\n@cache\ndef shards(): ...\n")
    goes_red(check, "def shards(): ...\nshards = functools.lru_cache(2)(shards)\n")
