"""One rule per type of layer."""

from torch import nn

from fedmed.errors import UserError
from fedmed.privacy.gradients.rules.convolution import ConvolutionRule
from fedmed.privacy.gradients.rules.linear import LinearRule
from fedmed.privacy.gradients.rules.norms import GroupNormRule
from fedmed.privacy.gradients.tape import Layer, Rule

REGISTRY: dict[type[nn.Module], Rule] = {
    nn.Conv1d: ConvolutionRule(),
    nn.Conv2d: ConvolutionRule(),
    nn.Conv3d: ConvolutionRule(),
    nn.Linear: LinearRule(),
    nn.GroupNorm: GroupNormRule(),
}


def find_layers(model: nn.Module) -> list[Layer]:
    """Every module of ``model`` that holds a trained parameter, with its rule.

    The type must be known exactly: a subclass may compute something else. Raises
    :class:`UserError` naming the layer and the way out.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = []
    for name, module in model.named_modules():
        trained = {
            own: names[id(parameter)]
            for own, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad
        }
        if not trained:
            continue
        rule = REGISTRY.get(type(module))
        if rule is None or "forward" in vars(module):
            raise UserError(
                f"model: layer '{name or type(module).__name__}' is {type(module).__name__}, "
                "which the engine 'fedmed' has no rule for; set privacy.engine = 'opacus' or 'loop'"
            )
        layers.append(Layer(name, module, rule, trained))
    return layers
