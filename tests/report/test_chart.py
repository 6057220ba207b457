"""Specifications: valid, safe to embed, and drawn as they should be."""

import json
import math
import re
from importlib import resources
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

from fedmed.report import chart, learning, vega
from fedmed.report.arms import Arm, summarise
from fedmed.report.chart import Figure
from fedmed.report.epsilon import panels
from fedmed.report.learning import ticks
from fedmed.report.load import load
from fedmed.report.palette import DARK, LIGHT
from fedmed.report.render import _figures


@pytest.fixture(scope="module")
def arms(compared: Path) -> list[Arm]:
    return summarise(load(compared))


@pytest.fixture(scope="module")
def figures(arms: list[Arm]) -> dict[str, Figure]:
    return _figures(arms)


def test_every_specification_keeps_the_schema(figures: dict[str, Figure]) -> None:
    """Vega-Lite passes over what it does not know, so a typing error would just do nothing."""
    pytest.importorskip("altair", reason="the schema of Vega-Lite comes with altair")
    folder = resources.files("altair").joinpath("vegalite/v6/schema/vega-lite-schema.json")
    schema = json.loads(folder.read_text(encoding="utf-8"))
    kind = {**schema, "$ref": "#/definitions/TopLevelLayerSpec"}
    validator = jsonschema.Draft7Validator(kind)
    # One figure of each kind: the schema is large and slow.
    for stem in ("epsilon-hospital", "groups-sex-fnr", "gaps-sex", "learning-dp-sgd", "cost"):
        problems = list(validator.iter_errors(figures[stem].view))
        assert not problems, problems[0].message[:500]


def test_units_are_never_mixed(arms: list[Arm]) -> None:
    for panel in panels(arms):
        unit = panel.name.removeprefix("epsilon-")
        assert set(panel.data["unit"]) == {unit, "none"}


def test_an_epsilon_beyond_the_bound_stands_on_amber(arms: list[Arm]) -> None:
    ground = {
        panel.name: [
            layer["data"]["values"][0]
            for layer in panel.view["layer"]
            if layer["mark"].get("color") == "var(--warn-soft)"
        ]
        for panel in panels(arms)
    }
    assert ground["epsilon-patient"] == []
    assert ground["epsilon-hospital"][0]["epsilon"] == pytest.approx(20.0)
    assert ground["epsilon-image"][0]["epsilon"] > 20.0  # the whole panel
    told = {panel.name: panel for panel in panels(arms)}["epsilon-hospital"]
    assert ("central-fixed", "41.7 if its data are replaced (20.4 as stated)") in {
        row[:2] for row in told.rows
    }
    assert told.data.set_index("arm").loc["central-fixed", "epsilon_stated"] == 20.4


def test_an_arm_has_one_colour_and_one_shape_everywhere(figures: dict[str, Figure]) -> None:
    found: dict[str, set[tuple[str, str]]] = {}

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            scale = value.get("scale")
            if value.get("field") == "arm" and isinstance(scale, dict):
                for name, looks in zip(scale["domain"], scale["range"], strict=True):
                    kind = "colour" if looks.startswith("var(") else "shape"
                    found.setdefault(name, set()).add((kind, looks))
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    for figure in figures.values():
        walk(figure.view)
    assert len(found) == 7
    assert all(len(looks) == 2 for looks in found.values())
    assert len({frozenset(looks) for looks in found.values()}) == 7


def test_names_of_points_do_not_cover_each_other(make_runs: ModuleType, tmp_path: Path) -> None:
    """Six arms at the same epsilon and almost the same AUROC."""
    names = [f"dp-sgd-{letter}" for letter in "abcdef"]
    for name in names:
        make_runs.ARMS[name] = make_runs.ARMS["dp-sgd"]
    try:
        for name in ["none", *names]:
            make_runs.write_arm(tmp_path, name, 0)
    finally:
        for name in names:
            del make_runs.ARMS[name]
    panel = panels(summarise(load(tmp_path)))[0]
    values = [
        value
        for layer in panel.view["layer"]
        if layer["mark"]["type"] == "text"
        for value in layer["data"]["values"]
    ]
    heights = sorted(value["y"] for value in values if value["arm"] != "none")
    assert len(heights) == 6
    assert all(b - a >= 12 for a, b in pairwise(heights))
    points = [layer for layer in panel.view["layer"] if layer["mark"]["type"] == "point"]
    places = [value["epsilon"] for value in points[0]["data"]["values"]]
    assert len(set(places)) == 6  # side by side
    assert set(panel.data["epsilon"].dropna()) == {8.0}  # but told as they are


def label_ends(panel: Figure) -> dict[str, tuple[float, float]]:
    """Where the name of each point begins and ends, in the narrowest panel (215 pixels)."""
    low, high = next(
        layer["encoding"]["x"]["scale"]["domain"]
        for layer in panel.view["layer"]
        if layer["mark"]["type"] == "point"
    )
    found = {}
    for layer in panel.view["layer"]:
        if layer["mark"]["type"] != "text" or layer["encoding"]["x"].get("field") != "epsilon":
            continue
        for value in layer["data"]["values"]:
            width = 6.6 * len(value["text"])
            at = 215 * math.log(value["epsilon"] / low) / math.log(high / low)
            at += layer["mark"]["dx"]
            start = at - {"left": 0.0, "right": width, "center": width / 2}[layer["mark"]["align"]]
            found[value["arm"]] = (start, start + width)
    return found


@pytest.mark.parametrize(
    "names", [["central-adaptive"], ["central-adaptive", "central-fixed-much"]]
)
def test_long_names_of_points_end_inside_the_narrowest_panel(
    make_runs: ModuleType, tmp_path: Path, names: list[str]
) -> None:
    for name in names:
        make_runs.ARMS[name] = make_runs.ARMS["central-fixed"]
    try:
        for name in ["none", *names]:
            make_runs.write_arm(tmp_path, name, 0)
    finally:
        for name in names:
            del make_runs.ARMS[name]
    ends = label_ends(panels(summarise(load(tmp_path)))[0])
    assert set(ends) == set(names)
    for start, end in ends.values():
        assert start >= -0.1
        assert end <= 215.1


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (1, [0, 1]),
        (2, [0, 1, 2]),
        (3, [0, 1, 2, 3]),
        (7, [0, 2, 4, 6]),
        (40, [0, 10, 20, 30, 40]),
        (1000, [0, 200, 400, 600, 800, 1000]),
    ],
)
def test_rounds_on_an_axis_are_whole_and_each_is_there_once(last: int, expected: list[int]) -> None:
    assert ticks(last) == expected


def test_the_axis_of_a_short_run_has_no_round_twice(make_runs: ModuleType, tmp_path: Path) -> None:
    """As it is drawn: the specification alone does not say which labels there are."""
    make_runs.write_arm(tmp_path, "none", 0, rounds=2)
    (figure,) = learning.panels(summarise(load(tmp_path)))
    _, (drawing,) = vega.render([{**figure.view, "width": 400}], {})
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)
    assert [text for text in texts if re.fullmatch(r"\d+", text)] == ["0", "1", "2"]


def test_no_text_breaks_out_of_the_script() -> None:
    text = chart.embedded({"a": "</script><!-- & \u2028 <b>", "é": 1.5})
    assert "<" not in text
    assert "&" not in text
    assert json.loads(text) == {"a": "</script><!-- & \u2028 <b>", "é": 1.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        chart.embedded(float("nan"))


def test_a_specification_that_cannot_be_drawn_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="cannot be drawn"):
        vega.render([{"mark": "nonsense"}], {})


def test_drawings_keep_their_order_and_their_texts() -> None:
    """More figures than processes, with a text that vl-convert's own font does not have."""

    def one(text: str) -> dict[str, Any]:
        return {
            "data": {"values": [{"a": text}]},
            "mark": {"type": "text", "fontSize": 20},
            "encoding": {"text": {"field": "a", "type": "nominal"}},
        }

    texts = [f"number {i} < é" for i in range(9)] + ["病院"]
    script, drawn = vega.render([one(text) for text in texts], {"number 3": "third"})
    assert len(drawn) == 10
    for text, drawing in zip(texts, drawn, strict=True):
        assert text.replace("<", "&lt;") in drawing.svg
        assert drawing.png.startswith(b"\x89PNG")
    assert "third &lt;" in drawn[3].paper
    assert "</script" not in script
    assert "vegaEmbed" in script


def test_ticks_of_epsilon_are_round_numbers() -> None:
    assert chart.log_ticks(2.0, 30.0) == [2.0, 5.0, 10.0, 20.0]
    assert chart.log_ticks(1.0, 200.0) == [1.0, 3.0, 10.0, 30.0, 100.0]
    assert chart.log_ticks(0.01, 1e6) == [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 1e4, 1e5, 1e6]


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast_is_enough(theme: dict[str, str]) -> None:
    def contrast(one: str, other: str) -> float:
        a, b = sorted((luminance(theme[one]), luminance(theme[other])), reverse=True)
        return (a + 0.05) / (b + 0.05)

    for ground in ("page", "card", "soft"):
        for text in ("ink", "muted", "accent", "warn"):
            assert contrast(text, ground) >= 4.5, (text, ground)
        for number in range(1, 9):
            assert contrast(f"arm-{number}", ground) >= 3.0, (number, ground)
    assert contrast("warn", "warn-soft") >= 4.5
    assert contrast("good", "page") >= 4.5
    assert contrast("good", "warn-soft") >= 4.5


def test_both_themes_name_the_same_colours() -> None:
    assert list(LIGHT) == list(DARK)
