"""The network of hospitals: which images each one trains on, and what the server holds out."""

from dataclasses import dataclass

import pandas as pd

from fedmed.base.errors import UserError
from fedmed.config import Data, Settings
from fedmed.data.cohort import Cohort
from fedmed.data.draws import kept
from fedmed.data.form import Form
from fedmed.data.partition import assign_hospitals
from fedmed.data.remembering import remembered
from fedmed.data.shard import Shard, load_shard
from fedmed.data.sources import load
from fedmed.data.split import UNKNOWN, assign_splits

POOLED = "pooled"  # the name of the one member that holds everything


@dataclass(frozen=True)
class Network:
    """A cohort with ``split`` and ``hospital`` for every image, patient-disjoint in both."""

    cohort: Cohort
    hospital: pd.Series
    unknown_patients: int = 0  # images whose patient nobody knows, each taken for one of its own
    fixed_split: bool = False  # the table itself says who is trained on, whatever the settings
    seed: int = 0  # of the draw of a patient's images under a cap

    @property
    def names(self) -> list[str]:
        """Hospitals, in natural order: hospital-2 before hospital-10."""
        return sorted(self.hospital.unique(), key=lambda name: (len(name), name))

    def training(self, hospital: str, cap: int = 0) -> Cohort:
        """The training images of a hospital (or of all: ``pooled``).

        With a ``cap`` above 0 at most so many of each patient's, see :func:`draws.kept`.
        """
        return self._at(hospital, self.cohort.table["split"] == "train", cap)

    def evaluation(self, hospital: str, cap: int = 0) -> Cohort:
        """Validation and test images that come from a hospital (or from all: ``pooled``)."""
        return self._at(hospital, self.cohort.table["split"] != "train", cap)

    def _at(self, hospital: str, rows: pd.Series, cap: int) -> Cohort:
        mask = rows if hospital == POOLED else rows & (self.hospital == hospital)
        table = self.cohort.table[mask]
        if cap:
            names = [self.cohort.images.identity(str(name)) for name in table["image"]]
            table = table[kept(table["patient_id"], names, cap, self.seed)]
        return self.cohort.with_table(table.reset_index(drop=True))

    def held_out(self) -> tuple[Cohort, pd.Series]:
        """Validation and test images of the server's, and the hospital each comes from."""
        mask = self.cohort.table["split"] != "train"
        table = self.cohort.table[mask].reset_index(drop=True)
        return self.cohort.with_table(table), self.hospital[mask].reset_index(drop=True)


@remembered(maxsize=2)
def load_network(data: Data) -> Network:
    """Load, split and partition the cohort of ``data``; the same for every process and seed.

    A hospital of a deployed federation has one cohort, its own: every row of it is that hospital's
    (``data.sites`` holds its name alone there). Raises :class:`UserError` for every mistake in the
    data or its keys, and for a coordinator that asks for data it has not.
    """
    if len(data.site_names) > 1:
        raise UserError(
            f"data.sites: the images of {', '.join(data.site_names)} stay with them; what needs "
            "images in one place needs a simulation, without data.sites"
        )
    given = load(data)
    patients = given.table.get("patient_id")
    unknown = len(given) if patients is None else int(patients.isna().sum())
    cohort = assign_splits(given, data)
    split = given.table.get("split", pd.Series(dtype="string"))
    fixed = data.split == "given" and {"val", "test"} <= set(split.dropna())
    if data.unknown_patients == "leave-out" and patients is not None:
        nobody = cohort.table["patient_id"].str.startswith(UNKNOWN).to_numpy(dtype=bool)
        rows = ~nobody | (cohort.table["split"] == "test").to_numpy(dtype=bool)
        cohort = cohort.with_table(cohort.table[rows].reset_index(drop=True))
        unknown = 0  # of those that train or validate, whose patients are to be protected
    if data.site_names:
        owners = pd.Series(data.site_names[0], index=cohort.table.index, dtype="string")
    else:
        owners = assign_hospitals(cohort.table, data)
    network = Network(cohort, owners, unknown, fixed, data.seed)
    if POOLED in network.names:
        raise UserError(f"data: a hospital may not be called '{POOLED}'; rename that site")
    for hospital in network.names:
        # A deployed hospital without any trains on nothing, and its noise is sent all the same.
        if not data.site_names and len(network.training(hospital)) == 0:
            raise UserError(
                f"{hospital} has no training images; lower data.hospitals or change data.partition"
            )
    return network


def member_names(settings: Settings) -> list[str]:
    """Names of the federation's members in the order of their partition ids."""
    if settings.train.scheme == "pooled":
        return [POOLED]
    if settings.data.site_names:
        return list(settings.data.site_names)
    return load_network(settings.data).names


@remembered(maxsize=128)
def training_shard(data: Data, hospital: str, cap: int = 0) -> Shard:
    """The training shard of one member, kept open by the process that asked for it."""
    return _shard(load_network(data).training(hospital, cap), data)


@remembered(maxsize=128)
def evaluation_shard(data: Data, hospital: str, cap: int = 0) -> Shard:
    """The validation and test images of one member, kept open by the process that asked."""
    return _shard(load_network(data).evaluation(hospital, cap), data)


@remembered(maxsize=2)
def held_out_shard(data: Data) -> tuple[Shard, pd.Series]:
    """The server's validation and test images, and the hospital of each."""
    cohort, hospitals = load_network(data).held_out()
    return _shard(cohort, data), hospitals


def _shard(cohort: Cohort, data: Data) -> Shard:
    """The cohort's shard; pictures of which nothing is left are refused in a simulation alone.

    In a deployed hospital a request decides about the window, so that refusing would tell its
    sender, without noise, whether a patient has values that it picked: the hospital's log says it.
    """
    return load_shard(cohort, Form.of(data), nothing_left=bool(data.site_names))


def forget() -> None:
    """Read every cohort anew: in a process that lives on, its files may have changed."""
    for kept_open in (load_network, training_shard, evaluation_shard, held_out_shard):
        kept_open.cache_clear()
