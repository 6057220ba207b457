"""The settings that a site runs: the request's recipe, with everything of the site's replaced."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fedmed import config
from fedmed.base.errors import UserError
from fedmed.config import READ_BY, Scalar, Settings
from fedmed.site.file import MACHINE, SHARED, SiteFile

_BY_NAME: Final = ("none", "imagenet", "pretrain")  # of model.weights; anything else is a path
_SMALLER: Final = ("privacy.epsilon", "privacy.delta")
_LARGER: Final = ("privacy.noise-multiplier", "privacy.laplace-scale")
_FEWER: Final = "privacy.images-per-patient"  # 0 = all of them


@dataclass(frozen=True)
class Both:
    """What a request asks for, on the site's data, and what the site runs instead."""

    asked: Settings
    used: Settings


def site_settings(site: SiteFile, requested: Mapping[str, Scalar]) -> Both:
    """What the site makes of a flat run config; nothing in either names another file or place.

    The site's own values win unless the request's protect more. Raises :class:`UserError` for a
    request that cannot be run here.
    """
    flat = {key: value for key, value in requested.items() if _is_the_requests(key)}
    flat |= site.data
    flat["data.sites"] = site.name
    if flat.get("model.weights", "none") not in _BY_NAME:
        flat["model.weights"] = "pretrain"  # they come with the model; here they are only a stem
    flat |= {key: value for key, value in site.settings.items() if key in MACHINE}
    asked = config.from_flat(flat, "the request")
    merged = asked.to_flat()
    arm = str(site.settings.get("privacy.arm", asked.privacy.arm))
    own = {key: value for key, value in site.settings.items() if key not in MACHINE}
    if asked.arm.one_noise and own:
        whose = "the server's, one" if asked.arm.at_server else "one"
        raise UserError(
            f"the noise of {asked.privacy.arm} is {whose} for all hospitals, and the "
            f"site has {min(own)} of its own; remove it, or do not take part"
        )
    if arm != asked.privacy.arm:
        merged |= _unread_by(arm)
    for key, value in own.items():
        merged[key] = _stricter(key, merged[key], value)
    return Both(asked, config.from_flat(merged, "the request with the site's values"))


def _is_the_requests(key: str) -> bool:
    section, _, name = key.partition(".")
    if section == "data":
        return name in SHARED
    # Folders, devices and threads are the site's; the seed orders its data as everybody's.
    return section != "run" or name == "seed"


def _unread_by(arm: str) -> dict[str, Scalar]:
    """Defaults of the keys that belong to other arms than this one."""
    plain = Settings().to_flat()
    return {key: plain[key] for key, arms in READ_BY.items() if arm not in arms and key in plain}


def _stricter(key: str, asked: Scalar, own: Scalar) -> Scalar:
    """The site's value, unless the request's protects more."""
    if isinstance(asked, str) or isinstance(own, str):
        return own
    if key in _SMALLER:
        return min(float(asked), float(own))
    if key in _LARGER:
        return max(float(asked), float(own))
    if key == _FEWER:
        return min(asked, own) if asked and own else asked or own
    return own
