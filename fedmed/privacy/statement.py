"""What a run guarantees, to whom, and what it does not: the content of ``privacy.json``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmed.config import Settings
from fedmed.privacy import accounting
from fedmed.privacy.accounting import ACCOUNTANT
from fedmed.privacy.noise import NoiseSource
from fedmed.privacy.plan import GradientPlan, ImagePlan, NoPrivacy, Plan, UpdatePlan
from fedmed.rounding import up

NOT_COVERED = [
    "the patients of the server's validation and test images, declared public or consented",
    "other runs, arms and seeds on the same patients: their epsilons add up to this one",
    "the choice of settings, made by whoever ran earlier experiments on the same data",
    "the number of patients and images of each hospital, treated as public",
    "when a hospital answers, whether it fails in a round, and the code it then sends",
    "floating-point resolution of the noise (Mironov 2012)",
]


@dataclass(frozen=True)
class Spend:
    """What one member really did: private steps (or rounds, or releases of its images) taken."""

    plan: Plan
    taken: int


def statement(
    settings: Settings, spends: Mapping[str, Spend], name: str, source: NoiseSource
) -> dict[str, Any]:
    """The statement of a finished run, JSON-ready, computed from the steps really taken."""
    plan = next(iter(spends.values())).plan
    text = _describe(settings, plan)
    hospitals = [_hospital(member, spend) for member, spend in spends.items()]
    epsilons = [h["epsilon"] for h in hospitals]
    claim = not isinstance(plan, NoPrivacy) and not source.reproducible
    worst = max(epsilons) if claim else None
    repeatable = not isinstance(plan, NoPrivacy) and source.reproducible
    result: dict[str, Any] = {
        "arm": settings.privacy.arm,
        "name": name,
        "scheme": settings.train.scheme,
        **text,
        "epsilon": worst,
        "delta": hospitals[0]["delta"] if claim else None,
        "target_epsilon": _target(settings, plan),
        "accountant": _accountant(plan),
        "noise_source": "no noise" if isinstance(plan, NoPrivacy) else source.description,
        "steps_planned": max(_planned(s.plan) for s in spends.values()),
        "steps_taken": max(s.taken for s in spends.values()),
        "hospitals": [] if isinstance(plan, NoPrivacy) else hospitals,
        "epsilon_per_pixel": None,
        "epsilon_replace_one": None,
        "epsilon_without_knowledge_of_the_seed": max(epsilons) if repeatable else None,
    }
    if claim and isinstance(plan, UpdatePlan):
        result["epsilon_replace_one"] = max(_replace_one(s) for s in spends.values())
    if isinstance(plan, ImagePlan):
        result["epsilon_per_pixel"] = max(s.taken for s in spends.values()) / plan.mechanism.scale
        result["not_covered"] = [
            "labels: the mechanism noises pixels only",
            "noised copies of the same images at another scale or size, or under another name: "
            "their epsilons add up",
            *NOT_COVERED,
        ]
    else:
        result["not_covered"] = list(NOT_COVERED)
    if settings.data.unknown_patients == "separate" and isinstance(plan, GradientPlan):
        result["not_covered"].append(
            "persons behind images without a patient identifier: each such image counts as one"
        )
    result["summary"] = _summary(result, plan)
    return result


def _replace_one(spend: Spend) -> float:
    """Epsilon where a hospital's update is replaced, not zeroed out: sensitivity 2C."""
    plan = spend.plan
    if not isinstance(plan, UpdatePlan):
        raise TypeError("only updates of hospitals are zeroed out or replaced")
    if plan.placement == "hospital":
        return plan.epsilon(spend.taken)
    return accounting.epsilon(plan.noise_multiplier / 2, 1.0, spend.taken, plan.delta)


def unit_of(plan: Plan) -> str:
    """Whose data one epsilon of this plan protects."""
    if isinstance(plan, GradientPlan):
        return plan.unit
    if isinstance(plan, ImagePlan):
        return "image"
    return "hospital" if isinstance(plan, UpdatePlan) else "none"


def _planned(plan: Plan) -> int:
    if isinstance(plan, GradientPlan):
        return plan.steps
    if isinstance(plan, UpdatePlan):
        return plan.rounds
    return 1 if isinstance(plan, ImagePlan) else 0


def _target(settings: Settings, plan: Plan) -> float | None:
    if isinstance(plan, NoPrivacy):
        return None
    if isinstance(plan, ImagePlan):
        return plan.mechanism.epsilon_per_image
    return settings.privacy.epsilon


def _hospital(member: str, spend: Spend) -> dict[str, Any]:
    plan = spend.plan
    if isinstance(plan, GradientPlan):
        return {
            "hospital": member,
            "epsilon": plan.epsilon(spend.taken),
            "delta": plan.delta,
            "noise_multiplier": plan.noise_multiplier,
            "sampling_rate": plan.sampling_rate,
            "steps": spend.taken,
        }
    if isinstance(plan, UpdatePlan):
        return {
            "hospital": member,
            "epsilon": plan.epsilon(spend.taken),
            "delta": plan.delta,
            "noise_multiplier": plan.noise_multiplier,
            "sampling_rate": 1.0,
            "steps": spend.taken,
        }
    epsilon = plan.epsilon(spend.taken) if isinstance(plan, ImagePlan) else math.inf
    return {
        "hospital": member,
        "epsilon": epsilon,
        "delta": 0.0,
        "noise_multiplier": None,
        "sampling_rate": 1.0,
        "steps": spend.taken,
    }


def _accountant(plan: Plan) -> str:
    if isinstance(plan, NoPrivacy):
        return "none"
    if isinstance(plan, ImagePlan):
        return "closed form: pixels / scale, added up over releases"
    return ACCOUNTANT


def _describe(settings: Settings, plan: Plan) -> dict[str, Any]:
    """Unit, neighbours, trust, mechanism, sampling and releases, in the words of the design."""
    pooled = settings.train.scheme == "pooled"
    alone = settings.train.scheme == "local-only"
    holder = "whoever holds the pooled data" if pooled else "the hospital"
    leaves = "the update of every round, to the server"
    if alone:
        leaves = "the hospital's own model after every round; nothing is shared between hospitals"
    if pooled:
        leaves = "all images and labels, to one place; the model after every round"
    if isinstance(plan, NoPrivacy):
        return {
            "unit": "none",
            "neighbouring": "none",
            "trust": "everyone" if not alone else "everyone who gets a hospital's model",
            "mechanism": "none: no privacy is claimed",
            "sampling": "shuffled mini-batches",
            "released": [leaves, "training losses and numbers of images"],
        }
    if isinstance(plan, ImagePlan):
        return {
            "unit": "image",
            "neighbouring": "replace the pixels of one image",
            "trust": "nobody",
            "mechanism": (
                f"Laplace noise of scale {plan.mechanism.scale:g} on every pixel (images on "
                "[0, 1]), drawn once and stored"
            ),
            "sampling": "none: every image is noised once",
            "released": (
                ["the noised images and the labels, to one place"]
                if pooled
                else ["the noised images, as far as a model trained on them shows", leaves]
            ),
        }
    if isinstance(plan, GradientPlan):
        return {
            "unit": plan.unit,
            "neighbouring": f"add or remove one {plan.unit}",
            "trust": holder,
            "mechanism": (
                f"DP-SGD: gradients of one {plan.unit} clipped to L2 norm "
                f"{plan.clipping_norm:g}, Gaussian noise on their sum in every step, division by "
                "the expected batch"
            ),
            "sampling": (
                f"Poisson over {plan.unit}s"
                + (", one image of a sampled patient drawn uniformly" * (plan.unit == "patient"))
            ),
            "released": ["the noised model after every round" if not alone else leaves],
        }
    server = plan.placement == "server"
    return {
        "unit": "hospital",
        "neighbouring": (
            "zero out one hospital's update" if server else "replace one hospital's data"
        ),
        "trust": "the server" if server else "nobody",
        "mechanism": (
            f"updates clipped to L2 norm {plan.clipping_norm:g}; Gaussian noise of standard "
            f"deviation {plan.noise_standard_deviation:g} on "
            + ("the sum, at the server" if server else "each update, at the hospital")
        ),
        "sampling": "none: every hospital takes part in every round",
        "released": [
            "the noised model after every round"
            if server
            else "the noised update of every hospital in every round"
        ],
    }


def _summary(result: Mapping[str, Any], plan: Plan) -> str:
    """One plain paragraph for a reader who is no expert."""
    if isinstance(plan, NoPrivacy):
        return (
            "This run protects nobody: the models that hospitals send, and the final model, may "
            "reveal whether a patient took part and what the images show."
        )
    if result["epsilon"] is None:
        return (
            "The noise of this run can be repeated from the experiment's seed. That is useful for "
            "checking the software and protects nobody against a person who knows the seed, so no "
            "epsilon is claimed."
        )
    epsilon = f"epsilon = {up(result['epsilon']):.3g} at delta = {up(result['delta']):.3g}"
    trust = result["trust"]
    trusted = "without trusting anybody" if trust == "nobody" else f"as long as {trust} is trusted"
    text = (
        f"One {result['unit']} is protected with {epsilon} ({result['neighbouring']}), {trusted}. "
        f"{result['steps_taken']} of {result['steps_planned']} planned "
        + {"image": "release(s)", "hospital": "round(s)"}.get(
            "image" if isinstance(plan, ImagePlan) else result["unit"], "step(s)"
        )
        + " were taken and paid for. "
    )
    if result["epsilon"] > 20:
        text += (
            "An epsilon of this size is no meaningful protection: an attacker can all but always "
            "tell two such data sets apart."
        )
    elif result["epsilon"] > 1:
        text += (
            "An attacker who knows everything else still learns something: lower epsilon "
            "protects more."
        )
    else:
        text += "An attacker who knows everything else learns very little about one " + str(
            result["unit"]
        )
        text += "."
    return text
