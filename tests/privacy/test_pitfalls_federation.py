"""Mistakes of who is heard, and how much: each test fails where its mistake is made."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message, MessageType
from safetensors.torch import load_file
from support import goes_red, make
from support.sites import SITES, KeyedGrid, joined, make_site

from fedmed.config import Settings
from fedmed.coordinator import joining
from fedmed.coordinator.bounds import Bounds
from fedmed.coordinator.coordinator import coordinate
from fedmed.coordinator.strategies import BudgetSpent, FederationStrategy
from fedmed.federation import messages
from fedmed.federation.messages import Reply

A, B, C = SITES


@pytest.fixture(autouse=True)
def _quick(tiny_hospitals: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_POLL", 0.01)
    monkeypatch.setattr(joining, "_ASK_AGAIN", 0.01)


def asked(**changes: Any) -> Settings:
    """Two rounds of three hospitals without privacy: a plan bounds nothing."""
    flat = {
        "data.sites": ", ".join(SITES),
        "data.hospitals": 3,
        "evaluation.where": "hospitals",
        "evaluation.resamples": 100,
        "train.rounds": 2,
        "train.local-epochs": 1,
        "train.batch-size": 8,
        "train.join-timeout": 1.0,
        "train.timeout": 5,
        "train.on-failure": "continue",
    }
    return make().replaced(flat | changes)


def federation(folder: Path, settings: Settings) -> KeyedGrid:
    return KeyedGrid({name: make_site(folder, name) for name in SITES}, settings.to_flat())


def rounds(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "history.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()][1:]


def length(folder: Path) -> float:
    arrays = load_file(folder / "model.safetensors")
    return float(torch.linalg.vector_norm(torch.cat([v.flatten() for v in arrays.values()])))


def huge(name: str, message: Message, reply: Message) -> Message:
    """B's update, every number of it 1e3."""
    if name != B or message.metadata.message_type != MessageType.TRAIN:
        return reply
    arrays = messages.decode_arrays(reply.content.array_records["update"])
    reply.content["update"] = messages.encode_arrays(
        {n: torch.full_like(v, 1e3) for n, v in arrays.items()}
    )
    return reply


def spent(name: str, message: Message, reply: Message) -> Message:
    """B says that its budget is spent."""
    if name != B or message.metadata.message_type != MessageType.TRAIN:
        return reply
    return Message(messages.update_content(Reply(B, error="budget")), reply_to=message)


def check_one_update_is_one_of_three(folder: Path) -> None:
    settings = asked()
    grid = federation(folder, settings)
    coordinate(grid, settings, folder / "alone")
    honest = length(folder / "alone")
    grid = federation(folder / "2", settings)
    grid.meddle = huge
    coordinate(grid, settings, folder / "run")
    assert length(folder / "run") < 10 * honest
    named = [[one["hospital"] for one in line["cut"]] for line in rounds(folder / "run")]
    assert named == [[B], [B]]


def check_one_refusal_is_one_hospitals(folder: Path) -> None:
    settings = asked(**{"train.on-failure": "stop"})
    grid = federation(folder, settings)
    grid.meddle = spent
    result = coordinate(grid, settings, folder / "run")
    assert result["rounds"] == 2
    assert [line["hospitals"] for line in rounds(folder / "run")] == [2, 2]


def test_pitfall_42_one_hospitals_update_or_refusal_is_taken_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_one_update_is_one_of_three(tmp_path / "a")
    check_one_refusal_is_one_hospitals(tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(Bounds, "within", lambda self, replies, *_: iter(replies))
        goes_red(check_one_update_is_one_of_three, tmp_path / "c")

    def ends_it(self: FederationStrategy, failures: Mapping[str, str], good: int) -> None:
        if "budget" in failures.values():
            raise BudgetSpent

    monkeypatch.setattr(FederationStrategy, "_handle", ends_it)
    goes_red(check_one_refusal_is_one_hospitals, tmp_path / "d")


def says_it_is_a(name: str, message: Message, reply: Message) -> Message:
    """C joins as A, and answers in its name."""
    if name != C:
        return reply
    if message.metadata.message_type != MessageType.QUERY:
        if "reply" in reply.content.config_records:
            reply.content.config_records["reply"]["hospital"] = A
        return reply
    told = dataclasses.replace(joined(reply), hospital=A)
    return Message(messages.join_content(told), reply_to=message)


def check_a_name_is_its_keys(folder: Path) -> None:
    """C, with a registered key of its own, is there before A: it gets no place and no line."""
    settings = asked(**{"privacy.arm": "dp-sgd", "privacy.delta": 1e-3})
    grid = federation(folder, settings)
    settings = settings.replaced({"data.site-keys": grid.site_keys()})
    grid.present = {B, C}
    grid.meddle = says_it_is_a
    coordinate(grid, settings, folder / "run")
    absent = [{f["hospital"] for f in line["failures"]} for line in rounds(folder / "run")]
    assert absent == [{A, C}, {A, C}]
    told = json.loads((folder / "run" / "privacy.json").read_text())
    assert [member["hospital"] for member in told["hospitals"]] == [B]


def check_who_comes_first_keeps_the_name(folder: Path) -> None:
    """Without a list: C says it is A once A has gone away, and does not get its place."""
    settings = asked(**{"train.rounds": 3})
    grid = federation(folder, settings)

    def swap(number: int, of: int, auroc: float | None) -> None:
        if number == 1:
            grid.present = {B, C}
            grid.forget(C)
            grid.meddle = says_it_is_a

    coordinate(grid, settings, folder / "run", on_round=swap)
    assert A in {f["hospital"] for f in rounds(folder / "run")[2]["failures"]}


def keys_that_all_fit(*_: Any) -> str:
    return ""


def test_pitfall_43_a_name_that_is_not_bound_to_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_a_name_is_its_keys(tmp_path / "a")
    check_who_comes_first_keeps_the_name(tmp_path / "b")
    monkeypatch.setattr(joining.Participants, "_key_of", keys_that_all_fit)
    goes_red(check_a_name_is_its_keys, tmp_path / "c")
    goes_red(check_who_comes_first_keeps_the_name, tmp_path / "d")
