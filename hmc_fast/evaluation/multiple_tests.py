"""Several tests at once: Holm's adjustment of their p-values."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def holm(p_values: Any) -> np.ndarray:
    """Holm's step-down adjustment for several tests at once; (tests,) in and out (Holm 1979)."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    left = np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * left), 1.0)
    return adjusted


def with_holm(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`rows`, each with "p_value", and "p_holm" beside it; one without a p-value (None) counts as a
    test with p = 1 and gets None."""
    adjusted = holm([1.0 if row["p_value"] is None else row["p_value"] for row in rows])
    return [
        {**row, "p_holm": None if row["p_value"] is None else float(p)}
        for row, p in zip(rows, adjusted, strict=True)
    ]
