"""Cells of a study's tables, a full made-up study, and its figures by hand."""

import functools

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from hmc_fast.evaluation import rank_permutations, study_comparisons, study_rank_tables
from hmc_fast.evaluation.study_tables import all_tables
from tiny_study import tiny_study


def quick(monkeypatch):
    """Few draws, deals and simulations."""
    monkeypatch.setattr(study_comparisons, "RESAMPLES", 500)
    monkeypatch.setattr(study_rank_tables, "SHIFTS", (1.0,))
    monkeypatch.setattr(rank_permutations, "DEALT", 999)


@functools.cache
def full_study():
    """The paper's four models with a leak study and explanations; nobody changes it."""
    return tiny_study(4)


@functools.cache
def full_tables():
    """{name: table} of `full_study`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        quick(monkeypatch)
        return {table.name: table for table in all_tables(full_study())}


def column(table, header):
    """{first cell: cell} of a column."""
    place = table.header.index(header)
    return {row[0]: row[place] for row in table.rows}


def records(table):
    """The rows as {header: cell}."""
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


def accuracies(run):
    """(folds,) by hand."""
    right = run["probabilities"].argmax(axis=1) == run["labels"]
    return np.array([right[run["folds"] == fold].mean() for fold in range(5)])


def balanced(run):
    """The pooled balanced accuracy by scikit-learn."""
    return balanced_accuracy_score(run["labels"], run["probabilities"].argmax(axis=1))
