"""The site of guides and API builds without a warning and asks nothing of other machines."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from support import goes_red

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_lead_to_pages_of_the_site_or_are_text(pages: ModuleType) -> None:
    def shown(text: str, page: str) -> str:
        named = SimpleNamespace(file=SimpleNamespace(src_uri=page))
        return str(pages.on_page_markdown(text, named))

    assert shown("[x](data.md#splits)", "plan.md") == "[x](data.md#splits)"
    assert shown("[x](../experiments/README.md#a)", "plan.md") == "[x](results.md#a)"
    assert shown("[`[x]`](../docs/data.md)", "results.md") == "[`[x]`](data.md)"
    assert shown("see [x](results/nih.csv).", "results.md") == "see x."
    assert (
        shown("[x](https://example.org) [y](#z)", "plan.md") == "[x](https://example.org) [y](#z)"
    )
    assert shown("```\n[x](../README.md)\n```\n", "plan.md") == "```\n[x](../README.md)\n```\n"
    assert pages.on_page_content("a :func:<code>b</code>") == "a <code>b</code>"


def alone(html: str) -> None:
    """Nothing that a browser would load by itself comes from elsewhere."""
    assert not re.search(r"""<(script|img|iframe)[^>]*\bsrc=["']?(https?:)?//""", html)
    assert not re.search(r"""<link[^>]*\bhref=["']?(https?:)?//""", html)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= {n[:-5] for n in found}
    assert not list(tmp_path.rglob("*.py"))
    for text in found.values():
        alone(text)
    goes_red(alone, found["index.html"] + '<script src="https://example.org/x.js"></script>')
    assert 'id="fedmed.config.tables.Train.rounds"' in found["api-configuration.html"]
    assert "Rounds of training." in found["api-configuration.html"]
    assert found["configuration.html"].count("<table>") == 7
    assert "For a hospital" in found["plan.html"]  # the navigation, from index.md
