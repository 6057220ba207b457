"""From a source of images to one shard per hospital.

:func:`read_cohort` and :func:`read_network` take an experiment's file or a dict of its ``[data]``
keys; docs/data.md has every key. Nothing is imported before it is used.
"""

from typing import TYPE_CHECKING

from fedmed.base import lazy

if TYPE_CHECKING:
    from fedmed.data.cohort import Cohort, ImageStore
    from fedmed.data.network import Network
    from fedmed.data.partition import assign_hospitals
    from fedmed.data.reading import read_cohort, read_network
    from fedmed.data.split import assign_splits
else:
    __getattr__, __dir__ = lazy.attach(
        __name__,
        {
            "cohort": ("Cohort", "ImageStore"),
            "network": ("Network",),
            "partition": ("assign_hospitals",),
            "reading": ("read_cohort", "read_network"),
            "split": ("assign_splits",),
        },
    )

__all__ = [
    "Cohort",
    "ImageStore",
    "Network",
    "assign_hospitals",
    "assign_splits",
    "read_cohort",
    "read_network",
]
