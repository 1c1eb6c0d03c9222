"""The result of an evaluation, and how it is shown and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reidzoo._files import atomic
from reidzoo.errors import ConfigError
from reidzoo.eval.scores import Roc, RocConvention, Scores, Threshold


@dataclass(frozen=True, eq=False)
class EvalResult:
    """Retrieval quality of one model on one data set. All values are fractions in [0, 1].

    Attributes:
        mAP: Mean average precision over the valid queries.
        cmc: (max_rank + 1,) float64; ``cmc[k]`` is Rank-k, the share of valid queries with a true match among the
            first k results. ``cmc[0]`` is 0: no result shown, none found.
        mINP: Mean inverse negative penalty over the valid queries: how early the *last* true match comes.
        per_query_ap: (num_queries,) float64, in the order of the queries; NaN where a query has no true match.
        num_queries: Queries given.
        num_valid: Queries with a true match in the gallery; only these enter the means.
        convention: How average precision was integrated, ``"rectangle"`` or ``"trapezoid"``.
        protocol: Name of the rules, see `compute_metrics`.
        scores: The distances of genuine and impostor pairs, where they were kept.
        precision: (101,) float64 by recall 0, 0.01, ..., 1: the best precision at that recall or a greater one (as
            Pascal VOC interpolates), mean of the valid queries.
    """

    mAP: float  # noqa: N815 - the field's own name
    cmc: NDArray[np.float64]
    mINP: float  # noqa: N815
    per_query_ap: NDArray[np.float64]
    num_queries: int
    num_valid: int
    convention: str = "rectangle"
    protocol: str = "market"
    scores: Scores | None = None
    precision: NDArray[np.float64] | None = None

    def threshold(self, far: float = 1e-3) -> Threshold:
        """Return where to cut between "same person" and "different persons".

        Args:
            far: False-accept rate: the share of pairs of different persons that may be taken for one person.

        Returns:
            ``distance`` (pairs closer than this are the same person; 1 - cos, or the Euclidean distance), and the rates
            ``far`` and ``frr`` (false rejects) of this evaluation at that distance.

        Raises:
            ConfigError: `far` is not in [0, 1], there are no pairs of different persons, or no scores were kept.
        """
        return self._known_scores().threshold(far)

    @property
    def roc(self) -> Roc:
        """True-accept rate over false-accept rate, with the distances."""
        return self._known_scores().roc()

    def tpr_at_fpr(self, fpr: float, convention: RocConvention = "verification") -> float:
        """Return the share of genuine pairs that is accepted while a share `fpr` of the impostors is.

        Args:
            fpr: In [0, 1].
            convention: ``"verification"``, or ``"fastreid"`` to compare with the tables of fast-reid and MetaBIN, which
                say something else by that name: see `Scores.tpr_at_fpr`.

        Raises:
            ConfigError: As from `threshold`.
        """
        return self._known_scores().tpr_at_fpr(fpr, convention)

    def _rates(self) -> dict[str, Any]:
        if self.scores is None or len(self.scores.impostor) == 0:
            return {}
        return {"thresholds": [self.threshold(far)._asdict() for far in (1e-4, 1e-3, 1e-2)]}

    def _known_scores(self) -> Scores:
        if self.scores is None:
            raise ConfigError("This result has no scores of pairs; compute_metrics and evaluate return them.")
        return self.scores

    def table(self) -> str:
        """Return the usual numbers in percent as aligned plain text."""
        return comparison_table({"": self})

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the per-query values, in types that JSON knows."""
        return {
            "mAP": self.mAP,
            "mINP": self.mINP,
            **{f"Rank-{k}": float(self.cmc[k]) for k in _shown_ranks(self)},
            "cmc": self.cmc.tolist(),
            "num_queries": self.num_queries,
            "num_valid": self.num_valid,
            "convention": self.convention,
            "protocol": self.protocol,
            **self._rates(),
        }

    def save(self, directory: str | Path) -> Path:
        """Write ``metrics.json`` (`to_dict` plus the per-query AP, null where invalid) into `directory`.

        The file appears whole or not at all. Returns its path.
        """
        path = Path(directory) / "metrics.json"
        per_query = [None if np.isnan(ap) else round(ap, 6) for ap in self.per_query_ap.tolist()]
        with atomic(path) as temporary:
            temporary.write_text(json.dumps({**self.to_dict(), "per_query_ap": per_query}, indent=1) + "\n")
        return path


def comparison_table(rows: Mapping[str, EvalResult]) -> str:
    """Lay several results side by side, one line per name, in percent.

    Args:
        rows: Results by the name to show; a single empty name gives a table without the name column.

    Returns:
        Aligned plain text: mAP, Rank-1, Rank-5, Rank-10 (as far as the curves go), mINP. Queries without a true match
        are counted in a line of their own below.
    """
    shown = [k for k in (1, 5, 10) if all(k in _shown_ranks(r) for r in rows.values())]
    cells = [["", "mAP", *(f"Rank-{k}" for k in shown), "mINP"]]
    for name, r in rows.items():
        cells.append([name, *(f"{100 * v:.1f}" for v in (r.mAP, *(r.cmc[k] for k in shown), r.mINP))])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([c[0].ljust(widths[0]), *map(str.rjust, c[1:], widths[1:])]) for c in cells]
    lines.insert(1, "-" * len(lines[0]))
    if widths[0] == 0:
        lines = [line[2:] for line in lines]
    for name, r in rows.items():
        if r.num_valid < r.num_queries:
            of = f"{name}: " if name else ""
            missing = r.num_queries - r.num_valid
            lines.append(f"{of}{missing} of {r.num_queries} queries have no true match and are left out of the means")
    return "\n".join(lines)


def _shown_ranks(result: EvalResult) -> list[int]:
    return [k for k in (1, 5, 10) if k < len(result.cmc)]
