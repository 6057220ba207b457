"""Every page of the guides is found from README within two clicks."""

import re
from pathlib import Path

from support import goes_red

ROOT = Path(__file__).resolve().parents[2]
CLICKS = 2
ELSEWHERE = ("https://", "http://", "mailto:", "#")


def links(page: Path) -> set[Path]:
    """Files that a page links to; what stands in a code block is no link."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    found = (
        (page.parent / t.partition("#")[0]).resolve()
        for t in targets
        if not t.startswith(ELSEWHERE)
    )
    return {path for path in found if path.is_file()}


def clicks(start: Path, most: int) -> dict[Path, int]:
    """Every file that is found from ``start`` -> how many clicks it takes."""
    found = {start: 0}
    for number in range(1, most + 1):
        pages = [page for page, far in found.items() if far == number - 1 and page.suffix == ".md"]
        for path in sorted(set().union(*(links(page) for page in pages))):
            found.setdefault(path, number)
    return found


def unreachable(start: Path, pages: list[Path]) -> list[str]:
    found = clicks(start, CLICKS)
    return [page.name for page in pages if page not in found]


def test_every_page_is_two_clicks_from_readme() -> None:
    """Sabotage: a guide that no page names, as four once were."""
    pages = [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "experiments").rglob("*.md"),
        *ROOT.glob("*.md"),
    ]
    missing = unreachable(ROOT / "README.md", pages)
    assert missing == [], "name it in docs/index.md"


def test_a_page_that_nobody_names_is_found(tmp_path: Path) -> None:
    def write(name: str, *targets: str) -> Path:
        path = tmp_path / name
        path.write_text("\n".join(f"[x]({target})" for target in targets), encoding="utf-8")
        return path

    start = write("README.md", "a.md#part", "https://example.org/d.md")
    pages = [write("a.md", "b.md"), write("b.md", "c.md"), write("c.md"), write("d.md")]
    assert clicks(start, 2) == {start: 0, pages[0]: 1, pages[1]: 2}
    assert unreachable(start, pages) == ["c.md", "d.md"]
    write("a.md", "b.md", "c.md", "d.md")
    assert unreachable(start, pages) == []
    (tmp_path / "a.md").write_text("```\n[x](b.md)\n```\n", encoding="utf-8")
    assert unreachable(start, pages) == ["b.md", "c.md", "d.md"]


def four_ways(text: str) -> None:
    assert re.findall(r"^## For an? (\w+)", text, re.MULTILINE) == [
        *("researcher", "hospital", "reviewer", "developer")
    ]
    for part in text.split("\n## ")[1:]:
        assert len(re.findall(r"^\d+\. \[", part, re.MULTILINE)) >= 5


def test_the_index_has_four_ways_in() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    four_ways(text)
    goes_red(four_ways, text.replace("## For a hospital", "## Hospitals"))
