"""A Methods paragraph from a comparison's settings: what was recorded, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import fedmed
from fedmed.privacy.statement.meaning import MOST
from fedmed.report.arms import Arm, reference
from fedmed.report.load import Comparison
from fedmed.report.manuscript.latex import escaped
from fedmed.report.manuscript.references import OF_ARMS
from fedmed.report.reading import Json, number, table
from fedmed.report.words import guarantee, listed, thousands

_CITED: Final = re.compile(r"\\cite\{([^}]*)\}")
_SETTINGS: Final = ("train.", "model.")
_SCHEMES: Final = {
    "pooled": "on all data in one place",
    "local-only": "at each hospital alone",
}


def methods(comparison: Comparison, arms: Sequence[Arm]) -> str:
    """The paragraph as LaTeX, with a sentence that says what it was made from."""
    sentences = [
        *_data(comparison, arms),
        *_training(comparison.base),
        *_arms(comparison.base, arms),
        *_evaluation(arms),
        f"Everything was computed with fedmed {escaped(fedmed.__version__)} \\cite{{fedmed}}.",
    ]
    return "% From the settings and results of the comparison; check it before you print it.\n" + (
        "\n".join(sentences) + "\n"
    )


def cited(text: str) -> list[str]:
    """The keys of the works that a text cites, in its order."""
    return [key for keys in _CITED.findall(text) for key in keys.split(",")]


def _data(comparison: Comparison, arms: Sequence[Arm]) -> list[str]:
    hospitals = number(comparison.base.get("data.hospitals"))
    metrics = table(arms[0].results[0], "metrics") if arms else {}
    images, patients = number(metrics.get("n_test")), number(metrics.get("patients_test"))
    size, dimensions = (
        number(comparison.base.get(f"data.{k}")) for k in ("image-size", "dimensions")
    )
    told = []
    if comparison.cohort:
        of = f", divided among {hospitals:.0f} hospitals" if hospitals else ""
        told.append(f"The cohort was {escaped(comparison.cohort)}{of}.")
    if comparison.synthetic:
        told.append("Its images are synthetic: no patient is behind them.")
    if size:
        what = "Volumes were resampled to a side of" if dimensions == 3 else "Images had a side of"
        told.append(f"{what} {size:.0f} {'voxels' if dimensions == 3 else 'pixels'}.")
    if images and patients:
        told.append(
            f"The test set held {thousands(images)} images of {thousands(patients)} patients, none "
            "of whom was in training."
        )
    return told


def _training(base: Json) -> list[str]:
    """The settings that all arms share; an arm's own are in the table of arms."""
    told = []
    if base.get("model.name"):
        told.append(f"The model was {escaped(str(base['model.name']))}.")
    shared = {
        "rounds": "train.rounds",
        "local epochs": "train.local-epochs",
        "images in a batch": "train.batch-size",
    }
    counts = [
        f"{value:g} {words}"
        for words, key in shared.items()
        if (value := number(base.get(key))) is not None
    ]
    if counts:
        rate, optimiser = number(base.get("train.learning-rate")), base.get("train.optimizer")
        by = (
            f", by {escaped(str(optimiser))} at a learning rate of {rate:g}"
            if rate and optimiser
            else ""
        )
        told.append(
            "Unless an arm had settings of its own, federated training "
            f"\\cite{{mcmahan2017}} on Flower \\cite{{beutel2020}} took {listed(counts)}{by}."
        )
    return told


def _own(base: Json, arm: Arm) -> str:
    """The settings of training and model in which an arm differs from the others, as a sentence."""
    settings = arm.runs[0].config
    own = [
        f"{key.partition('.')[2]} {escaped(str(value))}"
        for key, value in settings.items()
        if key.startswith(_SETTINGS) and base.get(key, value) != value
    ]
    return f" Its own settings: {listed(own)}." if own else ""


def _arms(base: Json, arms: Sequence[Arm]) -> list[str]:
    told = []
    for arm in arms:
        where = _SCHEMES.get(arm.scheme)
        if not arm.private:
            how = where or "together"
            text = f"Arm {escaped(arm.name)} trained {how}, without privacy."
            told.append(text + _own(base, arm))
            continue
        work = f" \\cite{{{OF_ARMS[arm.kind]}}}" if arm.kind in OF_ARMS else ""
        kind = f"{escaped(arm.kind)}{work}{f' {where}' if where else ''}"
        trusted = f"; trusted: {escaped(arm.trust)}" if not arm.weak else ""
        text = f"Arm {escaped(arm.name)} was {kind}: {escaped(guarantee(arm))}{trusted}."
        if arm.weak:
            text += f" This is no meaningful protection ($\\varepsilon$ above {MOST:g}, or none)."
        accountant = str(arm.statement.get("accountant") or "none")
        if accountant != "none" and arm.epsilon is not None:
            text += f" Its accountant: {escaped(accountant)}."
        relation = arm.statement.get("neighbouring")
        if relation and arm.epsilon is not None:
            text += f" Neighbouring data sets: {escaped(str(relation))}."
        told.append(text + _own(base, arm))
    return told


def _evaluation(arms: Sequence[Arm]) -> list[str]:
    seeds = sorted({run.seed for arm in arms for run in arm.runs})
    told = []
    if seeds:
        numbers = listed([str(seed) for seed in seeds])
        told.append(
            f"Each arm was trained with {len(seeds)} seeds ({numbers}) where they finished."
            if len(seeds) > 1
            else f"Each arm was trained once (seed {numbers}), so that no interval holds the luck "
            "of training."
        )
    base = reference(list(arms))
    evidence = arms[0].evidence if arms else None
    if evidence is None or base is None:
        return [*told, "Differences between arms were not tested."] if len(arms) > 1 else told
    method = "bias-corrected and accelerated (BCa)" if evidence.method == "bca" else evidence.method
    cite = " \\cite{efron1987}" if evidence.method == "bca" else ""
    resamples = f", {thousands(evidence.resamples)} resamples" if evidence.resamples else ""
    told.append(
        f"Intervals of 95\\,\\% are {escaped(method)} bootstrap intervals{cite} over "
        f"{escaped(evidence.unit)}s{resamples}, paired between arms; where few events were seen "
        "those of rates are after Agresti and Coull \\cite{agresti1998}, and those of AUROC after "
        "Newcombe \\cite{newcombe2006}."
    )
    size = number(evidence.family.get("size"))
    if size:
        told.append(
            f"The p-values of the {size:.0f} headline differences from {escaped(base.name)} were "
            "adjusted after Holm \\cite{holm1979}."
        )
    return told
