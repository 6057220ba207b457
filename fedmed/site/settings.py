"""The settings that a site runs: the request's recipe, with everything of the site's replaced."""

from collections.abc import Mapping
from typing import Final

from fedmed import config
from fedmed.config import READ_BY, Scalar, Settings
from fedmed.errors import UserError
from fedmed.site.file import SHARED, SiteFile

_BY_NAME: Final = ("none", "imagenet", "pretrain")  # of model.weights; anything else is a path
_SMALLER: Final = ("privacy.epsilon", "privacy.delta", "evaluation.epsilon", "evaluation.delta")
_LARGER: Final = ("privacy.noise-multiplier", "privacy.laplace-scale")
_FEWER: Final = ("privacy.images-per-patient", "evaluation.images-per-patient")  # 0 = all of them


def site_settings(site: SiteFile, requested: Mapping[str, Scalar]) -> Settings:
    """What the site runs of a requested flat run config; nothing in it names a file or a place.

    The site's own values win where they are stricter, or are no matter of strictness. Raises
    :class:`UserError` for a request that cannot be run here.
    """
    flat = {key: value for key, value in requested.items() if _is_the_requests(key)}
    flat |= site.data
    flat["data.sites"] = site.name
    weights = flat.get("model.weights", "none")
    if weights not in _BY_NAME:
        flat["model.weights"] = "pretrain"  # they come with the model; here they are only a stem
    asked = config.from_flat(flat, "the request")
    merged = asked.to_flat()
    own = dict(site.settings)
    arm = own.get("privacy.arm", asked.privacy.arm)
    if arm != asked.privacy.arm:
        if asked.privacy.arm.startswith("central-"):
            raise UserError(
                f"the request's {asked.privacy.arm} clips updates for noise at the server, which "
                f"the site's own privacy.arm = '{arm}' does not; remove that, or do not take part"
            )
        merged |= _unread_by(str(arm))
    for key, value in own.items():
        merged[key] = _stricter(key, merged[key], value, merged)
    return config.from_flat(merged, "the request with the site's values")


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


def _stricter(key: str, asked: Scalar, own: Scalar, merged: Mapping[str, Scalar]) -> Scalar:
    """The site's value, unless the request's protects more."""
    if isinstance(asked, str) or isinstance(own, str):
        return own
    if key in _SMALLER:
        if not own:
            return asked
        # In an evaluation 0 stands for training's value.
        asked = asked or merged[key.replace("evaluation.", "privacy.")]
        return min(float(asked), float(own))
    if key in _LARGER:
        return max(float(asked), float(own))
    if key in _FEWER and asked and own:
        return min(asked, own)
    return own or asked if key in _FEWER else own
