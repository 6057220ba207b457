"""Histograms on the wire: what is sent, and what the server accepts."""

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)

from fedmed.evaluation.pooled.histograms import Spec
from fedmed.federation import messages
from fedmed.federation.messages import Histograms, histogram_content, read_histograms

SPEC = Spec(edges=(0.25, 0.5), attributes=("sex",), cap=1)
COUNTS = {f: np.arange(np.prod(SPEC.shape(f))).reshape(SPEC.shape(f)) - 2.5 for f in SPEC.families}


pytestmark = pytest.mark.usefixtures("flower_sender")


def read(content: RecordDict | Error) -> Histograms:
    asked = Message(RecordDict(), 2, MessageType.EVALUATE)
    return read_histograms(Message(content, reply_to=asked), "hospital-1", SPEC)


def test_counts_arrive_as_they_were_sent_in_the_specs_order() -> None:
    sent = dict(reversed(COUNTS.items()))
    found = read(histogram_content(Histograms("hospital-1", sent)))
    assert found.counts is not None
    assert list(found.counts) == ["all", "sex"]
    assert all(np.array_equal(found.counts[f], COUNTS[f]) for f in COUNTS)
    assert found.clustering == 1
    told = read(histogram_content(Histograms("hospital-1", COUNTS, clustering=1.25)))
    assert told.clustering == 1.25


def changed(**arrays: Any) -> RecordDict:
    given = {f: torch.from_numpy(c) for f, c in COUNTS.items()} | arrays
    return RecordDict({"histograms": messages.encode_arrays(given)})


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"histograms": ArrayRecord()}),
        RecordDict({"histograms": ConfigRecord({"all": 1})}),
        changed(age=torch.zeros(2, 6, 2, 3, dtype=torch.float64)),
        changed(all=torch.zeros(2, 1, 2, 4, dtype=torch.float64)),
        changed(all=torch.zeros(2, 1, 2, 3)),
        changed(all=torch.full((2, 1, 2, 3), float("nan"), dtype=torch.float64)),
        changed(all=torch.full((2, 1, 2, 3), float("inf"), dtype=torch.float64)),
    ],
)
def test_histograms_of_another_form_are_a_code(content: RecordDict) -> None:
    found = read(content)
    assert found.counts is None
    assert found.error in ("bad-counts", "no-answer")


@pytest.mark.parametrize("value", [0.5, -1.0, float("nan"), float("inf")])
def test_a_clustering_that_cannot_be_is_a_code(value: float) -> None:
    content = histogram_content(Histograms("h", COUNTS))
    content["clustering"] = MetricRecord({"clustering": value})
    assert read(content).error == "bad-counts"


def test_errors_arrive_as_known_codes_without_a_text() -> None:
    assert read(Error(code=1, reason="patient 17")).error == "no-answer"
    assert read(histogram_content(Histograms("h", error="budget"))).error == "budget"
    odd = RecordDict({"error": ConfigRecord({"hospital": "h", "code": "patient 17"})})
    assert read(odd).error == "internal"


def test_the_request_is_the_model_and_the_cells() -> None:
    arrays = {"w": torch.ones(2)}
    same = messages.request_fingerprint({"w": torch.ones(2)}, SPEC)
    assert messages.request_fingerprint(arrays, SPEC) == same
    for other in (
        Spec(edges=(0.25, 0.6), attributes=("sex",), cap=1),
        Spec(edges=(0.25, 0.5), attributes=("age",), cap=1),
        Spec(edges=(0.25, 0.5), attributes=("sex",), cap=2),
    ):
        assert messages.request_fingerprint(arrays, other) != same
    assert messages.request_fingerprint({"w": torch.zeros(2)}, SPEC) != same
