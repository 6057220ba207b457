"""Answers of any form, drawn by seed: whoever sends one is left out, and nobody else is."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from support import goes_red, make
from support.sites import POLICY, SITES, SiteGrid, make_site
from support.strategies import MEMBERS, answer, answers, averaging, model, updates

from fedmed.coordinator import joining
from fedmed.coordinator.bounds import Bounds
from fedmed.coordinator.coordinator import coordinate
from fedmed.evaluation.pooled.histograms import EVERYBODY, Spec
from fedmed.evaluation.pooled.plausible import EVALUATED, IMAGES, most_images, why_impossible
from fedmed.federation import messages
from fedmed.federation.messages import Histograms, Joining, Reply

pytestmark = pytest.mark.usefixtures("flower_sender")

NUMBERS = (
    *(0, -1, 1, 2**31, 2**53, -(2**63), 10**18),
    *(0.0, -0.5, 1e17, -1e17, 1e38, 3.5e38, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf),
)
WORDS = (
    "",
    "hospital-1",
    "hospital-9",
    "\x1b[2J",
    "a\nb",
    "é" * 300,
    "budget",
    "patient 17",
    "nan",
)
SPEC = Spec(edges=(0.25, 0.5), attributes=("sex",))


def scalar(draw: np.random.Generator) -> Any:
    """A number, a word or bytes."""
    kind = int(draw.integers(4))
    if kind == 0:
        return bytes(draw.integers(0, 256, int(draw.integers(40)), dtype=np.uint8))
    if kind == 1:
        return bool(draw.integers(2))
    pool: tuple[Any, ...] = (NUMBERS, WORDS)[kind - 2]
    return pool[int(draw.integers(len(pool)))]


def array(draw: np.random.Generator) -> Array:
    """An array of some shape, kind and numbers, or bytes that are none."""
    if draw.random() < 0.25:
        data = bytes(draw.integers(0, 256, int(draw.integers(200)), dtype=np.uint8))
        return Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=data)
    shape = tuple(int(n) for n in draw.integers(0, 4, int(draw.integers(0, 4))))
    kind = draw.choice(["float32", "float64", "int64", "uint8", "bool", "complex64", "float16"])
    with np.errstate(all="ignore"):
        values = np.full(shape, float(draw.choice(np.array(NUMBERS, dtype=np.float64))))
        made = values.astype(str(kind))
    found = Array(made)
    if draw.random() < 0.2:  # cut short, or with something behind it
        found.data = found.data[: int(draw.integers(len(found.data) + 1))] + b"\x00" * 3
    if draw.random() < 0.1:
        found.stype = str(draw.choice(["", "pickle", "numpy.ndarray "]))
    return found


def record(draw: np.random.Generator, names: tuple[str, ...]) -> Any:
    """A record of one of Flower's kinds, under names that mean something and that mean nothing."""
    kind = int(draw.integers(3))
    chosen = [n for n in names if draw.random() < 0.6] or ["x"]
    if kind == 0:
        return ArrayRecord({n: array(draw) for n in chosen})
    if kind == 1:
        numbers = [NUMBERS[int(draw.integers(len(NUMBERS)))] for _ in chosen]
        return MetricRecord(dict(zip(chosen, numbers, strict=True)))
    return ConfigRecord({n: scalar(draw) for n in chosen})


NAMES = ("w", "b", "hospital", "code", "loss", "images", "all", "sex", "clustering", "version",
         "accepts", "evaluates", "rounds", "epsilon", "public-size", "privacy.epsilon")  # fmt: skip
PARTS = ("update", "reply", "metrics", "error", "histograms", "clustering", "own")


def broken(draw: np.random.Generator, good: RecordDict) -> RecordDict:
    """A good answer with parts of it replaced, removed, or changed inside."""
    content = RecordDict({name: copy.deepcopy(part) for name, part in good.items()})
    for name in PARTS:
        if draw.random() < 0.35:
            content[name] = record(draw, NAMES)
        elif name in content and draw.random() < 0.3:
            part: Any = content[name]
            key = list(part)[int(draw.integers(len(part)))] if len(part) else "x"
            if isinstance(part, ArrayRecord):
                part[key] = array(draw)
            elif isinstance(part, ConfigRecord):
                part[key] = scalar(draw)
            else:
                part[key] = NUMBERS[int(draw.integers(len(NUMBERS)))]
        elif name in content and draw.random() < 0.2:
            del content[name]
    return content


@pytest.mark.parametrize("seed", range(8))
def test_a_train_answer_of_any_form_hurts_nobody_else(seed: int) -> None:
    """The model stays what the two good updates and a bounded third one can make of it."""
    draw = np.random.default_rng(seed)
    for _ in range(60):
        good = messages.update_content(Reply(MEMBERS[4], updates()[2].update, 0.5, 7))
        content: Any = broken(draw, good) if draw.random() < 0.95 else Error(3, "patient 17")
        strategy = averaging(**{"on-failure": "continue"})
        strategy.bounds = Bounds(10.0)
        strategy.aggregate_train(1, [*answers(4), answer(4, content)])
        report = strategy.report
        assert report.hospitals in (2, 3)
        assert {f["hospital"] for f in report.failures} <= {MEMBERS[4]}
        assert len(report.failures) == 3 - report.hospitals
        assert np.isfinite(model(strategy)).all()
        assert np.linalg.norm(np.subtract(model(strategy), [1.0, 2.0, 10.0])) < 20
        assert report.loss is None or math.isfinite(report.loss)


@pytest.mark.parametrize(
    ("metrics", "fits"),
    [
        ({"loss": 0.5, "images": 7}, True),
        ({}, True),
        ({"loss": -0.5}, False),
        ({"loss": math.nan}, False),
        ({"loss": 1e308}, False),
        ({"images": -1}, False),
        ({"images": 10**12}, False),
    ],
)
def test_numbers_beside_an_update_that_cannot_be_are_a_code(
    metrics: dict[str, float], fits: bool
) -> None:
    content = messages.update_content(Reply(MEMBERS[2], updates()[0].update))
    content["metrics"] = MetricRecord(dict(metrics))
    like = dict(updates()[0].update or {})
    assert (messages.read_reply(answer(2, content), MEMBERS[2], like).error is None) == fits


def test_an_answer_in_another_hospitals_name_is_a_code() -> None:
    like = dict(updates()[0].update or {})
    content = messages.update_content(Reply(MEMBERS[3], updates()[0].update))
    assert messages.read_reply(answer(2, content), MEMBERS[2], like).error == "bad-update"


# Joining.


def told(**changes: Any) -> Joining | str:
    good = messages.join_content(Joining(hospital="a", public_size=24))
    record: Any = good["reply"]
    for key, value in changes.items():
        record[key.replace("_", "-")] = value
    return messages.read_join(answer(2, good))


@pytest.mark.parametrize(
    "change",
    [
        *({"public_size": n} for n in (-1, 10**10)),
        *({"rounds": n} for n in (-1, 10**7)),
        *({"epsilon": n} for n in (-1.0, math.nan)),
        *({"hospital": w} for w in ("", "a\x1b[2J", "a\nb", "x" * 300)),
        {"version": "0.2\n"},
        {"public_size": "many"},
    ],
)
def test_who_joins_with_values_that_cannot_be_does_not_join(change: dict[str, Any]) -> None:
    assert told(**change) == "internal"
    assert isinstance(told(), Joining)


def test_a_join_answer_of_any_form_is_read() -> None:
    draw = np.random.default_rng(4)
    good = messages.join_content(Joining(hospital="a", public_size=24, own={"privacy.epsilon": 2}))
    kinds = {type(messages.read_join(answer(2, broken(draw, good)))) for _ in range(400)}
    assert kinds == {str, Joining}


# Histograms.


def counts(scale: float = 1.0) -> dict[str, Any]:
    """Exact counts that add up."""
    sex = np.arange(2 * 3 * 2 * 3, dtype=np.float64).reshape(2, 3, 2, 3) * scale
    return {EVERYBODY: sex.sum(axis=1, keepdims=True), "sex": sex}


def changed(family: str, place: tuple[int, ...], value: float) -> dict[str, Any]:
    found = counts()
    found[family][place] = value
    return found


HERE = (0, 0, 0, 0)
IMPOSSIBLE = [
    (changed(EVERYBODY, HERE, 5000.0), "add up"),
    (changed("sex", HERE, -3.0), "below zero"),
    (changed("sex", HERE, 0.5), "not whole"),
    (counts(1e12), "more images"),
]


@pytest.mark.parametrize(("given", "why"), IMPOSSIBLE)
def test_counts_that_cannot_be_are_named(given: dict[str, Any], why: str) -> None:
    """1e12 gave an AUROC of 1 with an interval of [1, 1], and negative ones ended the run."""
    most = most_images(1000, SPEC)
    assert why in why_impossible(SPEC, given, 0.0, most)
    assert why_impossible(SPEC, counts(), 0.0, most) == ""
    assert most == EVALUATED * 1000 * IMAGES


def test_noise_is_no_lie_and_hides_only_as_much_as_it_is() -> None:
    """2,000 honest draws; each is called impossible with probability 1e-9 at most."""
    draw = np.random.default_rng(11)

    def check(deviation: float) -> None:
        for _ in range(2000):
            noisy = {n: c + 5.0 * draw.standard_normal(c.shape) for n, c in counts().items()}
            assert why_impossible(SPEC, noisy, deviation, 700.0) == ""

    check(5.0)
    goes_red(check, 1.0)
    for given, why in IMPOSSIBLE:
        if why != "not whole":
            far = {n: np.where(c == counts()[n], c, c - 100 * (c < 0)) for n, c in given.items()}
            assert why_impossible(SPEC, far, 5.0, 700.0) != ""


# Whole runs of three sites, of which one is hostile.


@pytest.fixture
def _sites(tiny_hospitals: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_POLL", 0.01)
    monkeypatch.setattr(joining, "_ASK_AGAIN", 0.01)


def asked(**changes: Any) -> Any:
    flat = {
        "data.sites": ", ".join(SITES),
        "data.hospitals": 3,
        "evaluation.where": "hospitals",
        "evaluation.resamples": 100,
        "train.rounds": 1,
        "train.local-epochs": 1,
        "train.batch-size": 8,
        "train.join-timeout": 0.4,
        "train.timeout": 5,
        "train.on-failure": "continue",
    }
    return make().replaced(flat | changes)


@pytest.mark.usefixtures("_sites")
@pytest.mark.parametrize("seed", range(4))
def test_a_run_with_a_hospital_that_answers_anything_ends_with_the_others(
    seed: int, tmp_path: Path
) -> None:
    draw = np.random.default_rng(100 + seed)

    def meddle(name: str, message: Message, reply: Message) -> Message:
        if name == SITES[1] and reply.has_content():
            reply.content = broken(draw, reply.content)
        return reply

    settings = asked()
    grid = SiteGrid({name: make_site(tmp_path, name) for name in SITES}, settings.to_flat())
    grid.meddle = meddle
    result = coordinate(grid, settings, tmp_path / "run")
    assert result["rounds"] == 1
    assert {SITES[0], SITES[2]} <= {*result["metrics"]["hospitals"]}
    assert 0 <= result["metrics"]["auroc"] <= 1


@pytest.mark.usefixtures("_sites")
def test_hostile_counts_change_no_number_of_the_others(tmp_path: Path) -> None:
    """The run's numbers are those of a run in which the hostile one refuses to evaluate."""

    def sends(given: Histograms | None) -> dict[str, Any]:
        folder = tmp_path / str(given is None)
        settings = asked()
        grid = SiteGrid({n: make_site(folder, n) for n in SITES}, settings.to_flat())

        def meddle(name: str, message: Message, reply: Message) -> Message:
            if name != SITES[1] or message.metadata.message_type != "evaluate":
                return reply
            if given is None:
                return Message(
                    messages.update_content(Reply(name, error="policy")), reply_to=message
                )
            arrays = messages.decode_arrays(reply.content.array_records["histograms"])
            big = {n: torch.full_like(v, 1e12) for n, v in arrays.items()}
            reply.content["histograms"] = messages.encode_arrays(big)
            return reply

        grid.meddle = meddle
        result: dict[str, Any] = coordinate(grid, settings, folder / "run")["metrics"]
        return result

    hostile, refused = sends(Histograms(SITES[1])), sends(None)
    assert hostile["missing"] == {SITES[1]: "bad-counts"}
    assert hostile["auroc"] == refused["auroc"]
    assert hostile["auroc_interval"] == refused["auroc_interval"]
    assert hostile["n_test"] == refused["n_test"]


@pytest.mark.usefixtures("_sites")
def test_a_size_that_one_hospital_declares_is_no_majority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """999 units beside 24 and 24 took 93 % of the weight."""
    seen: list[dict[str, float]] = []
    from fedmed.coordinator.strategies import Averaging

    real = Averaging._weights

    def spy(self: Averaging) -> dict[str, float]:
        seen.append(real(self))
        return seen[-1]

    monkeypatch.setattr(Averaging, "_weights", spy)
    files = {name: make_site(tmp_path, name) for name in SITES}
    (tmp_path / SITES[1] / "policy.toml").write_text(POLICY.replace("36", "999"))

    def check(share: float) -> None:
        settings = asked(**{"train.weighting": "size", "train.largest-share": share})
        grid = SiteGrid(files, settings.to_flat())
        coordinate(grid, settings, tmp_path / f"run-{share}")
        assert seen[-1][SITES[1]] / sum(seen[-1].values()) == pytest.approx(0.5)

    check(0.0)
    goes_red(check, 1.0)


@pytest.mark.usefixtures("_sites")
def test_a_run_goes_back_to_the_checkpoint_before_a_bad_round(tmp_path: Path) -> None:
    """As docs/deploy.md tells: the file is put back, and the same run makes the round again."""
    settings = asked(**{"train.rounds": 3})
    grid = SiteGrid({n: make_site(tmp_path, n) for n in SITES}, settings.to_flat())

    def bad_third(name: str, message: Message, reply: Message) -> Message:
        if name == SITES[1] and message.metadata.group_id == "3":
            arrays = messages.decode_arrays(reply.content.array_records["update"])
            turned = {n: -v for n, v in arrays.items()}
            reply.content["update"] = messages.encode_arrays(turned)
        return reply

    grid.meddle = bad_third
    run = tmp_path / "run"
    coordinate(grid, settings, run)
    assert sorted(path.name for path in (run / "earlier").iterdir()) == [
        f"round-{n}.safetensors" for n in range(3)
    ]
    spoiled = (run / "model.safetensors").read_bytes()
    grid.meddle = lambda name, message, reply: reply
    grid.present = {SITES[0], SITES[2]}
    (run / "result.json").unlink()
    (run / "checkpoint.safetensors").write_bytes(
        (run / "earlier" / "round-2.safetensors").read_bytes()
    )
    result = coordinate(grid, settings, run)
    assert result["resumed_from_round"] == 2
    assert result["rounds"] == 3
    assert (run / "model.safetensors").read_bytes() != spoiled
