"""One rule per type of layer."""

from torch import nn

from fedmed.privacy.gradients.rules.convolution import ConvolutionRule
from fedmed.privacy.gradients.rules.embedding import EmbeddingRule
from fedmed.privacy.gradients.rules.linear import LinearRule
from fedmed.privacy.gradients.rules.norms import (
    ChannelScaleRule,
    GroupNormRule,
    InstanceNormRule,
    LayerNormRule,
)
from fedmed.privacy.gradients.use import Rule

__all__ = ["REGISTRY"]

REGISTRY: dict[type[nn.Module], Rule] = {
    nn.Conv1d: ConvolutionRule(),
    nn.Conv2d: ConvolutionRule(),
    nn.Conv3d: ConvolutionRule(),
    nn.Linear: LinearRule(),
    nn.GroupNorm: GroupNormRule(),
    nn.LayerNorm: LayerNormRule(),
    nn.InstanceNorm1d: InstanceNormRule(),
    nn.InstanceNorm2d: InstanceNormRule(),
    nn.InstanceNorm3d: InstanceNormRule(),
    nn.BatchNorm1d: ChannelScaleRule(),  # in evaluation mode: check_model refuses any other
    nn.BatchNorm2d: ChannelScaleRule(),
    nn.BatchNorm3d: ChannelScaleRule(),
    nn.Embedding: EmbeddingRule(),
}
