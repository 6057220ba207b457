"""Names that are imported when they are asked for."""

import subprocess
import sys

import pytest

from fedmed.base import lazy


def test_a_name_comes_from_its_module_and_no_other_is_there() -> None:
    find, names = lazy.attach("fedmed.base", {"rounding": ("up",)}, packages=("errors",))
    assert find("up").__module__ == "fedmed.base.rounding"
    assert find("errors").__name__ == "fedmed.base.errors"
    assert {"up", "errors", "__name__"} <= set(names())
    with pytest.raises(AttributeError, match=r"'fedmed\.base' has no attribute 'down'"):
        find("down")


def test_a_module_is_imported_no_sooner_than_its_name_is_asked_for() -> None:
    code = (
        "import sys\n"
        "from fedmed.base import lazy\n"
        "find, names = lazy.attach('fedmed.base', {'rounding': ('up',)})\n"
        "names(); print('fedmed.base.rounding' in sys.modules)\n"
        "find('up'); print('fedmed.base.rounding' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
