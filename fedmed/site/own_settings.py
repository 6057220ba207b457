"""What a hospital sets of its own, and what the coordinator makes of what it declares.

A hospital may train under a stricter epsilon than it was asked for, or under another arm (noised
images at one hospital, DP-SGD at another): the average of updates takes both, and the statement
gives each hospital its own guarantee. Noise that the server adds is one for all of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmed import config
from fedmed.base.errors import UserError
from fedmed.base.files import safe_name
from fedmed.base.opening import expanded, is_folder, present
from fedmed.config import Scalar, Settings
from fedmed.data.network import POOLED, load_network
from fedmed.federation.members import check_signal
from fedmed.privacy.plans.evaluation import evaluation_plan
from fedmed.privacy.plans.making import Plan, make_plan
from fedmed.site.file import MACHINE, OWN


def own_settings(settings: Settings, hospital: str) -> Settings:
    """The settings that a simulated hospital uses: those asked for, and its own on top.

    ``NAME.toml`` in ``run.sites`` holds dotted keys, as ``[settings]`` of a site's own file does. A
    deployed hospital never looks where a request points.
    """
    if not settings.run.sites or settings.data.site_names:
        return settings
    path = _folder(settings) / f"{safe_name(hospital)}.toml"
    return with_own(settings, config.read_toml(path), str(path)) if present(path) else settings


def check_sites(settings: Settings, members: Sequence[str]) -> None:
    """Raise :class:`UserError` for a mistake in ``run.sites`` or in a file there.

    ``members`` are the names of those who train. Found here, it is told before anything is trained,
    and not by a hospital that then does not join.
    """
    if not settings.run.sites or settings.data.site_names:
        return
    known = {safe_name(name) for name in (*load_network(settings.data).names, POOLED)}
    for path in sorted(_folder(settings).glob("*.toml")):
        if path.stem not in known:
            raise UserError(
                f"{path} belongs to no hospital{config.nearest(path.stem, known)}; call it "
                f"NAME.toml after one of {', '.join(members)}"
            )
    for member in members:
        check_own(settings, difference(settings, own_settings(settings, member)), member)


def _folder(settings: Settings) -> Path:
    folder = expanded(settings.run.sites)
    if not is_folder(folder):
        raise UserError(
            f"run.sites = '{settings.run.sites}': no such folder; create it or remove the key"
        )
    return folder


def with_own(settings: Settings, own: Mapping[str, Any], where: str) -> Settings:
    """``settings`` with a hospital's own on top; :class:`UserError` for a key not its to set.

    Keys are dotted; ``where`` names the file for errors.
    """
    flat = config.flatten(dict(own))
    for key in flat:
        if key not in (*OWN, *MACHINE):
            known = (*OWN, *MACHINE)
            raise UserError(
                f"{where}: '{key}' is not a hospital's own to set{config.nearest(key, known)}; "
                f"use {', '.join(known)}"
            )
    return settings.replaced(flat, where) if flat else settings


def difference(asked: Settings, used: Settings) -> dict[str, Scalar]:
    """What a hospital declares: each key of :data:`OWN` in which it differs from what was asked."""
    mine, theirs = used.to_flat(), asked.to_flat()
    return {key: mine[key] for key in OWN if mine[key] != theirs[key]}


def check_own(asked: Settings, own: Mapping[str, Scalar], hospital: str) -> Settings:
    """The settings of a hospital that declared ``own``; raises :class:`UserError` for a weaker one.

    Whatever the hospital may think of it: the study asked for at least its own protection.
    """
    used = with_own(asked, own, f"{hospital}'s settings")
    before, after = asked.privacy, used.privacy
    if own and asked.arm.one_noise and set(own) & {k for k in OWN if "privacy." in k}:
        whose = "the server's, one" if asked.arm.at_server else "one"
        raise UserError(
            f"{hospital} has {sorted(own)[0]} of its own, but the noise of {before.arm} is {whose} "
            "for all hospitals; remove it there, or choose another arm"
        )
    if after.arm != before.arm:
        if not used.arm.protects_alone:
            raise UserError(
                f"{hospital} asks for the arm {after.arm} of its own, which adds no noise there; "
                f"use {before.arm} or an arm that noises images, gradients or updates at the "
                "hospital"
            )
    elif after.epsilon > before.epsilon:
        raise UserError(
            f"{hospital} has privacy.epsilon = {after.epsilon:g} of its own, weaker than the "
            f"{before.epsilon:g} that was asked for; lower it, or remove it"
        )
    elif 0 < after.noise_multiplier < before.noise_multiplier:
        raise UserError(
            f"{hospital} has privacy.noise-multiplier = {after.noise_multiplier:g} of its own, "
            f"weaker than the {before.noise_multiplier:g} that was asked for; raise it, or remove "
            "it"
        )
    elif after.delta > before.delta and not used.arm.once:
        raise UserError(
            f"{hospital} has privacy.delta = {after.delta:g} of its own, weaker than the "
            f"{before.delta:g} that was asked for; lower it, or remove it"
        )
    return used


def against_evaluation(asked: Settings, used: Settings) -> str:
    """Why a hospital with settings of its own cannot send histograms; empty where it can.

    The server reckons with one noise for all histograms, and a hospital that protects itself sends
    no exact ones.
    """
    if asked.evaluation.where == "server" or evaluation_plan(asked) == evaluation_plan(used):
        return ""
    return (
        "its histograms would have another noise than the others'; set evaluation.epsilon (and an "
        "arm that protects something) for all hospitals"
    )


def declared_plan(settings: Settings, hospital: str, public_size: int) -> Plan:
    """A hospital's plan from what it declares alone: no row of its data is known here.

    ``settings`` are the hospital's (see :func:`check_own`), ``public_size`` its number of units.
    """
    check_declared(hospital, public_size)
    plan = make_plan(settings, public_size, hospital, public_size)
    check_signal(settings, plan, hospital)
    return plan


def check_declared(hospital: str, public_size: int) -> None:
    """Raise :class:`UserError` where a hospital declares no size: the exact one is data."""
    if not public_size:
        raise UserError(
            f"{hospital} declares no public size, and rates, noise and divisors of a deployed "
            "federation rest on no exact one; set public-size in its policy"
        )


def check_coordinator(settings: Settings) -> None:
    """Raise :class:`UserError` for a setting that a coordinator without data would ignore."""
    data, run = settings.data, settings.run
    given = {
        "data.path": data.path,
        "data.images": data.images,
        "data.index": data.index,
        "data.mapping": data.mapping,
        "run.policies": run.policies,
        "run.sites": run.sites,
    }
    for key, value in given.items():
        if value:
            raise UserError(
                f"{key} = '{value}': the hospitals of data.sites bring data, policy and settings "
                "of their own; remove it"
            )
    if len(data.site_names) != data.hospitals:
        raise UserError(
            f"data.hospitals = {data.hospitals}, but data.sites names {len(data.site_names)}; set "
            f"data.hospitals = {len(data.site_names)}"
        )
