"""The plans of all members, from their shards and the settings."""

from fedmed.config import Settings
from fedmed.data.network import member_names, training_shard
from fedmed.data.shard import Shard
from fedmed.privacy.plan import Plan, make_plan


def units_in(shard: Shard, settings: Settings) -> int:
    """Number of protected units in a shard: patients or images, as ``privacy.unit`` says."""
    return len(shard.patients()) if settings.privacy.unit == "patient" else len(shard)


def make_plans(settings: Settings) -> dict[str, Plan]:
    """Every member's plan; raises :class:`fedmed.errors.UserError` where one cannot be made."""
    plans = {}
    for member in member_names(settings):
        shard = training_shard(settings.data, member)
        plans[member] = make_plan(settings, units_in(shard, settings), member)
    return plans
