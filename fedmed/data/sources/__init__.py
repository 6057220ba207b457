"""Sources of cohorts: every one ends in the same validated table with one ``label`` column."""

from collections.abc import Callable
from importlib import import_module

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.base.entries import missing
from fedmed.base.errors import UserError
from fedmed.config import Data
from fedmed.data.cohort import (
    LABEL_PREFIX,
    SOFT_PREFIX,
    Cohort,
    label_columns,
    target_columns,
    validate,
)
from fedmed.data.depth import declared

UNCERTAIN = -1
"""The label of a finding that the report mentions without deciding (CheXpert, MIMIC-CXR-JPG)."""


def reader(source: str) -> Callable[[Data], Cohort]:
    """``load`` of the module that has the source's name; settings name none but the known ones."""
    loader: Callable[[Data], Cohort] = import_module(f"fedmed.data.sources.{source}").load
    return loader


def load(data: Data) -> Cohort:
    """The cohort that ``data.source`` names, validated, with one 0/1 column ``label``.

    Of several labels ``data.target`` picks one, or some (:func:`several`); uncertain ones (-1)
    become what ``data.uncertain`` says, and under ``smooth`` a column ``soft`` holds what training
    aims at for them. Raises :class:`UserError` naming the file, row or key and the remedy.
    """
    cohort = declared(reader(data.source)(data), data)
    if data.targets:
        return cohort.with_table(several(cohort.table, data, cohort.name))
    table, where = _choose(cohort.table, data, cohort.name), cohort.name
    if "label" in table.columns:
        table, uncertain, ignored = _settle(table, data, where)
        table = validate(table, where)
        if data.uncertain == "smooth":
            soft = pd.Series(data.uncertain_label, index=table.index, dtype="Float32")
            table["soft"] = soft.mask(~uncertain)
        table = table[~ignored].reset_index(drop=True)
    else:
        table = validate(table, where)  # says what is missing
    if table["label"].nunique() < 2:
        raise UserError(
            f"{where}: one class only, every label is the same; give images with and without the "
            "disease, or another data.target"
        )
    return cohort.with_table(table)


def _choose(table: pd.DataFrame, data: Data, where: str) -> pd.DataFrame:
    """The table with the label that ``data.target`` names as its column ``label``."""
    columns = label_columns(table)
    if columns == ["label"]:
        if data.target and data.source != "medmnist":
            raise UserError(f"{where} has one label; remove data.target = '{data.target}'")
        return table
    if not columns:
        return table
    chosen = LABEL_PREFIX + data.target
    names = ", ".join(column.removeprefix(LABEL_PREFIX) for column in columns)
    if not data.target:
        raise UserError(f"{where} has several labels; set data.target to one of: {names}")
    if chosen not in columns:
        raise UserError(f"data.target = '{data.target}' is no label of {where}; use: {names}")
    others = [column for column in columns if column != chosen]
    return table.drop(columns=others).rename(columns={chosen: "label"})


def several(table: pd.DataFrame, data: Data, where: str) -> pd.DataFrame:
    """A validated table with a column ``label:<name>`` for each target, and ``label`` for any.

    ``data.uncertain`` holds for each target on its own: what ``ignore`` leaves out of one is <NA>
    there, and what ``smooth`` softens is in ``soft:<name>``. An image without any known label is
    left out. Raises :class:`UserError` naming the target, and the row where one is to blame.
    """
    given = label_columns(table)
    if given == ["label"]:
        raise UserError(f"{where} has one label; remove data.target = '{data.target}'")
    names = ", ".join(column.removeprefix(LABEL_PREFIX) for column in given)
    kept = table.drop(columns=given)
    soft: dict[str, pd.Series] = {}
    for target in data.targets:
        column = LABEL_PREFIX + target
        if column not in given:
            raise UserError(f"data.target: '{target}' is no label of {where}; use: {names}")
        one = table[[column]].rename(columns={column: "label"})
        settled, uncertain, ignored = _settle(one, data, f"{where}, label '{target}'")
        values = settled["label"].mask(ignored, pd.NA)
        blank = pd.to_numeric(values, errors="coerce").isna().to_numpy() & ~ignored
        if blank.any():
            row = int(one.index[int(blank.argmax())]) + 1
            raise UserError(
                f"{where}, row {row}: label '{target}' is empty or no number; fill it, or set "
                "data.uncertain = 'ignore' to leave it out of this label"
            )
        kept[column] = values.to_numpy(dtype=object)
        if data.uncertain == "smooth":
            aims = pd.Series(data.uncertain_label, index=values.index, dtype="Float32")
            soft[SOFT_PREFIX + target] = aims.mask(~uncertain).reset_index(drop=True)
    valid = validate(kept, where)
    labels = valid[target_columns(valid)]
    for column in target_columns(valid):
        if labels[column].nunique() < 2:
            raise UserError(
                f"{where}: label '{column.removeprefix(LABEL_PREFIX)}' has one class only; take it "
                "out of data.target, or give images with and without it"
            )
    valid = valid.assign(label=labels.max(axis=1).astype("Int8"), **soft)
    return valid[labels.notna().any(axis=1)].reset_index(drop=True)


def _settle(
    table: pd.DataFrame, data: Data, where: str
) -> tuple[pd.DataFrame, NDArray[np.bool_], NDArray[np.bool_]]:
    """Uncertain labels made 0 or 1, which rows they are, and which to leave out.

    Left out are, under ``ignore``, uncertain and empty labels. Under ``smooth`` the nearer of 0 and
    1 stands for an uncertain label wherever patients are counted or dealt.
    """
    values = table["label"].astype(object)
    uncertain = (pd.to_numeric(values, errors="coerce") == UNCERTAIN).to_numpy(dtype=bool)
    ignored = np.zeros(len(table), dtype=bool)
    if data.uncertain == "refuse":
        if uncertain.any():
            raise UserError(
                f"{where}, row {int(table.index[int(uncertain.argmax())]) + 1}: the label is -1 "
                "(uncertain); set data.uncertain to negative, positive, ignore or smooth"
            )
        return table, uncertain, ignored
    if data.uncertain == "ignore":
        ignored = uncertain | missing(table["label"]).to_numpy(dtype=bool)
    nearer = {"positive": 1, "smooth": int(data.uncertain_label >= 0.5)}.get(data.uncertain, 0)
    settled = values.mask(uncertain | ignored, nearer)
    return table.assign(label=settled), uncertain, ignored
