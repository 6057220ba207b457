"""Which modules of a model are trained, and by which rule."""

import warnings
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from fedmed.base.errors import UserError
from fedmed.privacy.gradients.rules import REGISTRY
from fedmed.privacy.gradients.use import Layer


def find_layers(model: nn.Module) -> list[Layer]:
    """Every module of ``model`` that holds a trained parameter, with its rule.

    The type must be known exactly: a subclass may compute something else. Parameters that are made
    from others by ``torch.nn.utils.parametrize`` (weight standardisation, Qiao et al. 2019; weight
    normalisation) are covered, as long as they are made from parameters alone. Raises
    :class:`UserError` naming the layer and the way out.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers, covered = [], set[int]()
    for name, module in model.named_modules():
        if id(module) in covered:
            continue
        kind = type(module)
        trained = {
            own: names[id(parameter)]
            for own, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad
        }
        made: dict[str, ParametrizationList] = {}
        if is_parametrized(module):
            kind = cast(type[nn.Module], kind.__mro__[1])  # torch makes a subclass per module
            parts = cast(dict[str, ParametrizationList], module.parametrizations)
            covered.add(id(parts))
            covered |= {id(inner) for part in parts.values() for inner in part.modules()}
            for own, part in parts.items():
                given = {
                    f"parametrizations.{own}.{inner}": names[id(parameter)]
                    for inner, parameter in part.named_parameters()
                    if parameter.requires_grad
                }
                if given:
                    made[own] = part
                    trained |= given
        if not trained:
            continue
        rule = REGISTRY.get(kind)
        if rule is None or "forward" in vars(module):
            raise UserError(
                f"model: layer '{name or kind.__name__}' is {kind.__name__}, which the engine "
                "'fedmed' has no rule for; set privacy.engine = 'opacus' or 'loop'"
            )
        pull_back = partial(_pull_back, made) if made else None
        layers.append(Layer(name, module, rule, trained, frozenset(made), pull_back))
    return layers


def _pull_back(
    made: dict[str, ParametrizationList], gradients: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Gradients of made parameters (rows, *shape) to those of what they are made from.

    The chain rule, sample by sample: the same linear map for all of them.
    """
    pulled = {}
    for own, gradient in gradients.items():
        if own not in made:
            pulled[own] = gradient
            continue
        part = made[own]
        given = {n: p.detach() for n, p in part.named_parameters() if p.requires_grad}

        def make(values: dict[str, Tensor], part: ParametrizationList = part) -> Tensor:
            result: Tensor = torch.func.functional_call(part, values, ())
            return result

        pull = cast(Any, torch.func.vjp(make, given))[1]
        with warnings.catch_warnings():
            # torch warns where it maps one by one (weight normalisation): slower, and as right.
            warnings.filterwarnings("ignore", "There is a performance drop")
            rows = torch.func.vmap(pull)(gradient)[0]
        pulled |= {f"parametrizations.{own}.{inner}": value for inner, value in rows.items()}
    return pulled
