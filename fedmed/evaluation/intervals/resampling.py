"""Resamples of patients: all images of a patient together, strata of patients kept in size.

A stratum is the patients with only negative images or only positive ones, so that every resample
has as many patients of each kind as the sample (Davison and Hinkley 1997, section 3.2). Where any
patient has both labels there are no strata: which patients have both is itself luck, often of how
ill they are, and to keep their share would hold still a part of what has to vary.
Resamples are drawn in blocks, each from a seed of its own, so that the result does not depend on
the number of threads, nor on the form in which the counts are handed out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from threadpoolctl import threadpool_limits

from fedmed.evaluation.measuring.scratch import scratch

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint8]
Progress = Callable[[float], None]
"""Told the share of the resamples that is done, 0 to 1, in the thread that asked for them."""

RESAMPLES: Final = 2000
SEED: Final = 20131  # fixed, so that a table computed again has the same interval
# Resamples drawn from one seed and worked on at once: so many that a block of weights stays in the
# cache, within bounds set by the cost of a call and by memory.
CELLS: Final = 640_000
FEWEST: Final = 16
MOST: Final = 256


def clusters(patients: pd.Series) -> Integers:
    """Code of the patient of each image; an image without a known patient is its own patient."""
    codes, known = pd.factorize(patients)
    index = codes.astype(np.int64)
    absent = index < 0
    index[absent] = len(known) + np.arange(int(absent.sum()))
    return index


def label_strata(labels: Integers, patient: Integers) -> Integers:
    """Stratum of each patient: 0 only negative images, 1 only positive ones; all 0 if any has both.

    `labels` [n] in {0, 1}, `patient` [n] in 0 to patients - 1 with none left out.
    """
    count = int(patient.max()) + 1
    positive = np.bincount(patient[labels == 1], minlength=count) > 0
    negative = np.bincount(patient[labels == 0], minlength=count) > 0
    return positive * int(not np.any(positive & negative))


@dataclass(frozen=True)
class Design:
    """Who is drawn with whom: the patient of each image, and the patients of each stratum."""

    patient: Integers  # [n], 0 to patients - 1
    strata: tuple[Integers, ...]  # the patients of each stratum

    @classmethod
    def of(cls, patients: npt.ArrayLike, labels: Integers, *, by_label: bool = True) -> Design:
        """Design from any patient codes [n]; strata are those of :func:`label_strata`, or none."""
        _, patient = np.unique(np.asarray(patients), return_inverse=True)
        patient = patient.astype(np.int64)
        if patient.size == 0:
            return cls(patient, ())
        if not by_label:
            return cls(patient, (np.arange(int(patient.max()) + 1),))
        kind = label_strata(labels, patient)
        return cls(patient, tuple(np.flatnonzero(kind == k) for k in np.unique(kind)))

    @cached_property
    def most(self) -> int:
        """Images of the patient who has most."""
        return int(np.bincount(self.patient).max()) if self.patient.size else 0

    @property
    def patients(self) -> int:
        """Number of patients."""
        return int(self.patient.max()) + 1 if self.patient.size else 0

    def counts(self, resamples: int, generator: np.random.Generator) -> Floats:
        """How often each patient is drawn [patients, resamples]; a stratum keeps its size.

        Good until this thread asks again.
        """
        result = scratch("counts", self.patients, resamples)
        shift = np.arange(resamples, dtype=np.int64)
        for members in self.strata:
            size = members.size
            drawn = generator.integers(0, size, (size, resamples), dtype=np.int32)
            place = scratch("place", size, resamples).view(np.int64)
            np.multiply(drawn, resamples, out=place)
            place += shift
            counted = np.bincount(place.ravel(), minlength=size * resamples)
            result[members] = counted.reshape(size, resamples)
        return result

    def whole_counts(self, resamples: int, generator: np.random.Generator) -> Counts:
        """The draws of :meth:`counts` as whole numbers [resamples, patients], in memory of its own.

        An eighth of the bytes, and one resample lies together: for so many patients that a block of
        resamples leaves the cache.
        """
        # Nobody is drawn more than 255 times: of fewer patients there are not as many draws, and of
        # more the chance is below 1e-500.
        result = np.empty((resamples, self.patients), dtype=np.uint8)
        for members in self.strata:
            drawn = generator.integers(0, members.size, (members.size, resamples), dtype=np.int32)
            everybody = members.size == self.patients  # then in order: there is nothing to place
            for row, chosen in zip(result, np.ascontiguousarray(drawn.T), strict=True):
                counted = np.bincount(chosen, minlength=members.size)
                row[slice(None) if everybody else members] = counted
        return result

    def centred(self, derivative: Floats) -> Floats:
        """Influence per patient [patients, columns] from derivatives by image [n, columns].

        Summed over a patient's images and centred in each stratum, whose size is kept.
        """
        result = np.empty((self.patients, derivative.shape[1]))
        for column in range(derivative.shape[1]):
            result[:, column] = np.bincount(self.patient, derivative[:, column], self.patients)
        for members in self.strata:
            result[members] -= result[members].mean(axis=0)
        return result


def part_of(progress: Progress | None, done: int, parts: int) -> Progress | None:
    """`progress` for the next of several equal parts, of which some are done."""
    if progress is None:
        return None
    return lambda share: progress((done + share) / parts)


def for_each_block(
    design: Design,
    resamples: int,
    seed: int,
    work: Callable[[slice, Any], None],
    *,
    threads: int | None = None,
    whole: bool = False,
    progress: Progress | None = None,
) -> None:
    """Call `work` with a slice of the resamples and how often each patient is in them.

    The counts are [patients, slice], good until `work` returns; `whole`: [slice, patients] whole
    numbers. From several threads at once (None: one per core).
    """
    size = max(FEWEST, min(MOST, CELLS // max(1, design.patient.size)))
    seeds = np.random.SeedSequence(seed).spawn(-(-resamples // size))
    count = design.whole_counts if whole else design.counts

    def block(index: int) -> None:
        chosen = slice(index * size, min(resamples, (index + 1) * size))
        generator = np.random.default_rng(seeds[index])
        work(chosen, count(chosen.stop - chosen.start, generator))

    cores = (os.cpu_count() or 1) if threads is None else threads
    # One thread per product: those of several products at once would wait for one another, for
    # minutes where other processes take the cores.
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(max(1, min(cores, len(seeds)))) as pool,
    ):
        # Left early, by Ctrl-C or an error, `map` calls off the blocks that have not begun.
        for done, _ in enumerate(pool.map(block, range(len(seeds))), start=1):
            if progress is not None:
                progress(done / len(seeds))
