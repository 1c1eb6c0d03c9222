"""Data sets that are split several times: the average over the splits, and how much it varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reidzoo.errors import ConfigError
from reidzoo.eval.report import EvalResult
from reidzoo.eval.scores import RocConvention

_RANKS, _RATES = (1, 5, 10), (1e-4, 1e-3, 1e-2)


@dataclass(frozen=True, eq=False)
class SplitResult:
    """What the splits of one data set gave.

    Attributes:
        results: One for each split.
        mean: Arithmetic mean by the name of the measure, as fractions.
        std: Population standard deviation (divided by the number of splits), likewise.
    """

    results: tuple[EvalResult, ...]
    mean: dict[str, float]
    std: dict[str, float]


def average_splits(results: Sequence[EvalResult], *, roc: RocConvention = "verification") -> SplitResult:
    """Average the results of several splits, as VIPeR, GRID, PRID and iLIDS are reported.

    Args:
        results: One for each split, at least one.
        roc: What the columns TPR@FPR mean, see `Scores.tpr_at_fpr`; MetaBIN's tables need ``"fastreid"``.

    Raises:
        ConfigError: No results, or results of different conventions or protocols.
    """
    if not results:
        raise ConfigError("There are no results to average.")
    kinds = {(r.convention, r.protocol) for r in results}
    if len(kinds) > 1:
        raise ConfigError(f"The results are not of one kind (average precision, protocol): {sorted(kinds)}.")
    rows = [_measures(r, roc) for r in results]
    names = [name for name in rows[0] if all(name in row for row in rows)]
    columns = {name: np.array([row[name] for row in rows]) for name in names}
    return SplitResult(
        tuple(results),
        {name: float(column.mean()) for name, column in columns.items()},
        {name: float(column.std()) for name, column in columns.items()},
    )


def splits_table(sets: Mapping[str, SplitResult]) -> str:
    """Lay several data sets out below each other, in percent: mean and deviation of each, then the mean of the sets.

    Args:
        sets: Results by the name to show, at least one.
    """
    names = [name for name in next(iter(sets.values())).mean if all(name in s.mean for s in sets.values())]
    cells = [["", *names]]
    for label, values in sets.items():
        cells += [[f"{label} mean", *_percent(values.mean, names)], [f"{label} std", *_percent(values.std, names)]]
    if len(sets) > 1:
        overall = {name: float(np.mean([s.mean[name] for s in sets.values()])) for name in names}
        cells.append(["all mean", *_percent(overall, names)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([c[0].ljust(widths[0]), *map(str.rjust, c[1:], widths[1:])]) for c in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _measures(result: EvalResult, roc: RocConvention) -> dict[str, float]:
    values = {f"Rank-{k}": float(result.cmc[k]) for k in _RANKS if k < len(result.cmc)}
    values |= {"mAP": result.mAP, "mINP": result.mINP}
    if result.scores is not None and len(result.scores.impostor):
        values |= {f"TPR@FPR={rate:g}": result.tpr_at_fpr(rate, roc) for rate in _RATES}
    return values


def _percent(values: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [f"{100 * values[name]:.2f}" for name in names]
