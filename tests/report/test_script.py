"""The page's script: bundled for the first report and read by the next, never half of one."""

from pathlib import Path
from typing import Any

import pytest

from fedmed.report import vega

DOT = {"data": {"values": [{"a": 1}]}, "mark": "point", "encoding": {"x": {"field": "a"}}}


def test_a_script_is_bundled_once_and_made_again_where_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path))
    asked: list[str] = []
    ask = vega._ask

    def counting(job: dict[str, Any]) -> Any:
        asked.append(next(iter(job)))
        return ask(job)

    monkeypatch.setattr(vega, "_ask", counting)
    first, _ = vega.render([DOT], {})
    assert asked.count("script") == 1
    (kept,) = (tmp_path / "cache" / "scripts").iterdir()
    assert vega.render([DOT], {})[0] == first == kept.read_text()
    assert asked.count("script") == 1
    kept.write_text(first[:1000])
    assert vega.render([DOT], {})[0] == first
    assert asked.count("script") == 2


def test_a_cache_that_cannot_be_written_stops_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path))
    assert "vegaEmbed" in vega.render([DOT], {})[0]
