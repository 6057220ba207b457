"""The kinds of plan: one frozen object that gives training and accounting their numbers."""

from fedmed.privacy.plans.base import Plan, Words, part
from fedmed.privacy.plans.features import FeaturePlan
from fedmed.privacy.plans.gradient import GradientPlan, Sampling
from fedmed.privacy.plans.image import ImagePlan, NoPrivacy
from fedmed.privacy.plans.stacked import StackedPlan
from fedmed.privacy.plans.summed import SummedPlan
from fedmed.privacy.plans.unnoised import UnnoisedPlan
from fedmed.privacy.plans.update import AdaptiveClipping, UpdatePlan

Released = ImagePlan | FeaturePlan
"""Plans of what is noised and paid for once, before training."""

__all__ = [
    "AdaptiveClipping",
    "FeaturePlan",
    "GradientPlan",
    "ImagePlan",
    "NoPrivacy",
    "Plan",
    "Released",
    "Sampling",
    "StackedPlan",
    "SummedPlan",
    "UnnoisedPlan",
    "UpdatePlan",
    "Words",
    "part",
]
