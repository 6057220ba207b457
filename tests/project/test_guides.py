"""README and the page for an ethics board: short, true to the code, every term once."""

import re
import tomllib
from inspect import signature
from pathlib import Path

from support import goes_red

from fedmed.evaluation.fairness import MINIMUM
from fedmed.evaluation.intervals.intervals import detectable

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
READING = (ROOT / "docs" / "reading-a-report.md").read_text(encoding="utf-8")
COUNTS = {"seven": 7, "nine": 9, "twelve": 12, "thirteen": 13, "fifteen": 15}
TERMS = (
    *("AUROC", "Chance", "Interval", "Within-hospital AUROC", "Sensitivity and specificity"),
    *("Differential privacy", "Unit of privacy", "Epsilon (ε)", "Neighbouring relation"),
    *("Delta (δ)", "Who is trusted", "Place of the noise", "Epsilon of the whole study", "Ledger"),
    *("Fairness gap", "Primary endpoint", "Detectable change"),
    *("Groups that were not compared", "Many comparisons"),
)


def test_readme_stays_one_page_and_opens_the_way_of_each_reader() -> None:
    """A page of a browser or of paper: about 1,100 words with its tables."""
    assert len(README.split()) <= 1150
    head = README.partition("\n## The arms")[0]
    for page in ("docs/deploy.md", "docs/reading-a-report.md"):
        assert f"]({page})" in head.partition("\n## Try it")[0]
    assert "git clone " in head


def test_readme_counts_the_arms_that_make_run_trains() -> None:
    """Sabotage: "every arm", while the quickstart has some of them."""

    def true(text: str) -> None:
        (said,) = re.findall(r"train (\w+) arms", text)
        file = tomllib.loads((ROOT / "experiments" / "quickstart.toml").read_text())
        assert COUNTS.get(said) == len(file["arms"])

    true(README)
    goes_red(true, README.replace("twelve arms", "thirteen arms"))


def test_the_size_of_the_download_is_the_recorded_one() -> None:
    record = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    ((gigabytes, disk),) = re.findall(
        r"\| ([\d.]+) GB in \d+ files,.*\n\| disk of `\.venv` after it \| ([\d.]+) GB \|", record
    )
    assert f"downloads {float(gigabytes):.1f} GB" in README
    assert f"takes {disk} GB of disk" in README


def terms(text: str) -> list[str]:
    """Terms that a paragraph explains: bold at its beginning."""
    parts = text.partition("\n## What no number covers")[0]
    return [t.rstrip(".") for t in re.findall(r"^\*\*([^*]+)\*\*", parts, re.MULTILINE)]


def test_every_term_of_a_report_is_explained_once_on_two_pages() -> None:
    def once(text: str) -> None:
        assert terms(text) == list(TERMS)
        assert len(text.split()) <= 1500

    once(READING)
    goes_red(once, READING.replace("**Delta (δ).**", "Delta."))
    goes_red(once, READING.replace("**Interval.**", "**Chance.**"))


def test_the_numbers_of_the_page_are_the_codes() -> None:
    table = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+) \| [\d.]+ \| [\d.]+ \| ([\d.]+ %) \|", table, re.MULTILINE))

    def true(text: str) -> None:
        flat = " ".join(text.split())
        assert (
            f"At epsilon 1 they find at most {rows['1']}, at epsilon 8 at most {rows['8']}" in flat
        )
        assert f"fewer than {MINIMUM} ill or {MINIMUM} healthy" in flat
        power = signature(detectable).parameters["power"].default
        assert power == 0.8
        assert "four times in five" in flat

    true(READING)
    goes_red(true, READING.replace("at most 20 %", "at most 2 %"))
    goes_red(true, READING.replace("fewer than 10 ill", "fewer than 5 ill"))
