"""What a public repository needs: who may cite it, who checks it, where weaknesses go."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from support import goes_red

ROOT = Path(__file__).resolve().parents[2]


def loaded(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def version() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def cites(citation: dict[str, Any], licence: str) -> None:
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == version(), "write pyproject.toml's version into CITATION.cff"
    assert citation["license"] == licence
    assert all(set(author) == {"name"} for author in citation["authors"])  # no invented people


def test_the_citation_is_of_this_version() -> None:
    citation = loaded("CITATION.cff")
    cites(citation, "Apache-2.0")
    goes_red(cites, citation | {"version": "0.1.0"}, "Apache-2.0")
    goes_red(cites, citation | {"authors": [{"family-names": "Doe"}]}, "Apache-2.0")
    (readme,) = re.findall(r"^  version = \{(.*)\}", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert readme == version()


def checks(workflow: dict[Any, Any]) -> None:
    jobs = workflow["jobs"]
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML reads the key `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in jobs.values())
    assert jobs["test"]["timeout-minutes"] == 90
    assert [step["run"] for step in jobs["test"]["steps"] if "run" in step] == ["bash .ci/run"]
    assert (ROOT / ".ci" / "run").is_file()
    audit = [step["run"] for step in jobs["audit"]["steps"] if "run" in step]
    assert "pip_audit --require-hashes" in audit[-1]
    assert audit[-1].endswith("requirements.lock")
    for job in jobs.values():
        steps = {step["uses"].split("@")[0]: step for step in job["steps"] if "uses" in step}
        assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in steps.values())
        assert steps["actions/checkout"]["with"] == {"persist-credentials": False}
        assert steps["actions/setup-python"]["with"] == {"python-version": "3.11"}


def test_every_change_runs_what_any_machine_runs() -> None:
    workflow = loaded(".github/workflows/ci.yml")
    checks(workflow)
    goes_red(checks, workflow | {"permissions": "write-all"})
    goes_red(checks, workflow | {"jobs": workflow["jobs"] | {"test": workflow["jobs"]["audit"]}})


def test_a_weakness_is_reported_in_private() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "private vulnerability report" in text
    assert "epsilon or delta that is too small" in text
    assert "(docs/threats.md)" in text
