"""Evaluation without a test set: every hospital's histograms, asked for once, then pooled."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedmed.base.errors import RunError
from fedmed.config import Data, Settings
from fedmed.coordinator.evaluation import initial_model
from fedmed.coordinator.summing import Arrays
from fedmed.data.form import Form
from fedmed.data.sources import phantom
from fedmed.evaluation.pooled.histograms import EVERYBODY, Spec, around, equal_width, located
from fedmed.evaluation.pooled.plausible import most_images, why_impossible
from fedmed.evaluation.pooled.pooled import Pooled, evaluate_histograms
from fedmed.federation import messages
from fedmed.federation.messages import Histograms
from fedmed.federation.streaming import StreamingGrid
from fedmed.privacy.plans.evaluation import evaluation_bins, evaluation_cap, evaluation_plan
from fedmed.training.local import pick_device, predict

log = logging.getLogger("fedmed.server")

_PUBLIC = Data(patients=60, seed=2**31 - 1 - 2013)  # a seed of its own: no cohort's images
_LEFT_OUT = ("policy", "budget", "bad-counts")  # asked again, these would send the same


@dataclass(frozen=True)
class Collected:
    """What came of asking: the hospitals' counts, and the code of each that sent none."""

    spec: Spec
    counts: dict[str, dict[str, NDArray[np.float64]]]
    clustering: float
    missing: dict[str, str]


def collect(
    grid: Grid,
    settings: Settings,
    members: Mapping[int, str],
    frozen: ArrayRecord,
    owners: Mapping[str, Arrays],
    run: str,
    sizes: Mapping[str, float] | None = None,
) -> Collected:
    """Ask ``members`` (node by hospital) for histograms of the model, or of their own model.

    Histograms that cannot be are left out; ``sizes`` are the units that are believed of hospitals,
    where those declare them. Raises :class:`RunError` where one fails and ``train.on-failure`` is
    'stop': what was sent is kept by the hospitals, and a run that goes on gets it again.
    """
    spec = make_spec(settings, owners)
    everyone = next(iter(owners))
    asked = {owner: messages.encode_arrays(owners[owner]) for owner in owners}  # each once
    outgoing = [
        Message(
            messages.evaluate_content(
                asked[name if name in owners else everyone], frozen, spec.edges, run
            ),
            node,
            MessageType.EVALUATE,
            group_id="evaluate",
        )
        for node, name in members.items()
    ]
    plan = evaluation_plan(settings)
    deviation = 0.0 if plan is None else plan.deviation(spec)
    answers = {name: Histograms(name, error="no-answer") for name in members.values()}
    for reply in StreamingGrid(grid).send_and_receive(outgoing, timeout=settings.train.timeout):
        name = members[reply.metadata.src_node_id]
        most = most_images((sizes or {}).get(name, math.inf), spec)
        answers[name] = _believed(
            messages.read_histograms(reply, name, spec), spec, deviation, most
        )
    missing = {name: a.error for name, a in answers.items() if a.error is not None}
    for name, code in missing.items():
        log.warning("%s sent no histograms: %s (%s)", name, code, messages.ERRORS[code])
        if settings.train.on_failure == "stop" and code not in _LEFT_OUT:
            raise RunError(
                f"{name} sent no histograms: {code} ({messages.ERRORS[code]}); mend it and run "
                "again, or set train.on-failure = 'continue'"
            )
    counts = {name: a.counts for name, a in answers.items() if a.counts is not None}
    told = max((a.clustering for a in answers.values()), default=1.0)
    # Under noise hospitals tell nothing exact: the cap is the most that patients can matter.
    clustering = told if plan is None else float(spec.cap)
    return Collected(spec, counts, clustering, missing)


def _believed(answer: Histograms, spec: Spec, deviation: float, most: float) -> Histograms:
    """An answer, or the code of one that no hospital can have counted."""
    if answer.counts is None:
        return answer
    why = why_impossible(spec, answer.counts, deviation, most)
    if not deviation and answer.clustering > max(1.0, answer.counts[EVERYBODY].sum()):
        why = why or "more images of one patient than there are"
    if not why:
        return answer
    log.warning("%s sent %s: its histograms are left out", answer.hospital, why)
    return Histograms(answer.hospital, error="bad-counts")


def make_spec(settings: Settings, owners: Mapping[str, Arrays]) -> Spec:
    """The public cells: nothing in them comes from a hospital's evaluation images."""
    bins, evaluation = evaluation_bins(settings), settings.evaluation
    if evaluation.binning == "equal-width":
        edges = equal_width(bins)
    else:
        edges = around(*located(public_scores(settings, owners)), bins)
    return Spec(edges=edges, attributes=evaluation.grouped_by, cap=evaluation_cap(settings))


def public_scores(settings: Settings, owners: Mapping[str, Arrays]) -> NDArray[np.float64]:
    """Scores that the model(s) give synthetic radiographs, always the same ones.

    Only where to put edges: they need not look like the hospitals' images. Edges that fit badly
    cost resolution, which the binning bound shows, and never privacy.
    """
    data = settings.data
    form = Form.of(data)
    drawn = _PUBLIC.model_copy(update={"dimensions": data.dimensions, "slices": data.slices})
    cohort = phantom.load(drawn)
    images = np.stack([form.make(cohort.images.read(n), n) for n in cohort.table["image"]])
    model = initial_model(settings).to(pick_device(settings.run.device))
    scores = []
    for arrays in owners.values():
        messages.install(model, arrays)
        scores.append(predict(model, images, settings.model.channels, dimensions=data.dimensions))
    return np.concatenate(scores)


def pooled_metrics(settings: Settings, collected: Collected) -> dict[str, Any]:
    """The metrics of a run from what was collected; every number None where nobody sent any."""
    plan = evaluation_plan(settings)
    spec, counts = collected.spec, collected.counts
    deviation = 0.0 if plan is None else plan.deviation(spec)
    nobody = {"nobody": {family: np.zeros(spec.shape(family)) for family in spec.families}}
    pooled = Pooled(
        spec=spec,
        counts=counts or nobody,  # zeros: every number is None, and every key is there
        deviation=deviation if counts else 0.0,
        clustering=collected.clustering,
    )
    metrics = evaluate_histograms(
        pooled,
        specificity=settings.evaluation.specificity,
        resamples=settings.evaluation.resamples,
    )
    if not counts:
        metrics["groups"]["hospital"] = []
        metrics["notes"].append("no hospital sent histograms")
    metrics["notes"] += [
        f"{name} sent no histograms: {code} ({messages.ERRORS[code]})"
        for name, code in collected.missing.items()
    ]
    metrics["hospitals"] = list(counts)
    metrics["missing"] = dict(collected.missing)
    metrics["noise"] = None
    if plan is not None:
        metrics["noise"] = {
            "mechanism": "Gaussian noise on every cell of all histograms",
            "epsilon": plan.epsilon,
            "delta": plan.delta,
            "unit": "patient",
            "images_per_patient": plan.cap,
            "sensitivity": spec.sensitivity,
            "noise_multiplier": plan.noise_multiplier,
            "standard_deviation": deviation,
            "standard_deviation_pooled": deviation * math.sqrt(len(counts)),
        }
    return metrics
