"""Same person or not: the distances of pairs, and where to cut between them.

Retrieval only asks which image is closer. A tracker or a gate asks whether two images show one person, and that takes
a threshold; what it costs is read from the distances of genuine pairs (a query and a true match) and impostor pairs (a
query and a gallery image of somebody else). Pairs *below* a threshold are accepted as the same person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reidzoo.errors import ConfigError
from reidzoo.eval._inputs import check_choice

RocConvention = Literal["verification", "fastreid"]
_KEPT = 1 << 22  # impostor distances kept at most


class Threshold(NamedTuple):
    """A cut between "same person" and "different persons".

    Attributes:
        distance: Pairs closer than this are called the same person.
        far: False-accept rate: share of the impostor pairs below it.
        frr: False-reject rate: share of the genuine pairs that are not below it.
    """

    distance: float
    far: float
    frr: float


class Roc(NamedTuple):
    """The receiver operating characteristic: what is accepted as the threshold rises.

    Attributes:
        far: (n,) false-accept rate, ascending from 0 to 1.
        tar: (n,) true-accept rate, 1 - `Threshold.frr`, ascending from 0 to 1.
        distance: (n,) pairs at this distance are the last that are accepted.
    """

    far: NDArray[np.float64]
    tar: NDArray[np.float64]
    distance: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """Distances of the pairs of an evaluation, junk left out.

    Attributes:
        genuine: (n,) float32, every pair of a query and a true match.
        impostor: (m,) float32, pairs of a query and an image of another identity: all of them up to 4 million, an even
            selection from all queries and all of the gallery beyond.
        impostor_pairs: How many such pairs there are.
    """

    genuine: NDArray[np.float32]
    impostor: NDArray[np.float32]
    impostor_pairs: int

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.sort(self.genuine), np.sort(self.impostor)

    def threshold(self, far: float = 1e-3) -> Threshold:
        """Return the largest threshold at which at most a share `far` of the impostor pairs is accepted.

        Args:
            far: False-accept rate, in [0, 1]. A rate below one pair's share asks for none to be accepted.

        Raises:
            ConfigError: `far` is not in [0, 1], or there are no impostor pairs.
        """
        if not 0 <= far <= 1:
            raise ConfigError(f"far={far} is not a false-accept rate: give a share between 0 and 1, such as 1e-3.")
        genuine, impostor = self._sorted
        self._check_pairs()
        allowed = int(far * len(impostor) * (1 + 1e-12))
        if allowed < len(impostor):
            cut = impostor[allowed]
        else:
            cut = np.nextafter(max(genuine[-1], impostor[-1]), np.float32(np.inf))
        accepted, found = impostor.searchsorted(cut, "left"), genuine.searchsorted(cut, "left")
        return Threshold(float(cut), float(accepted / len(impostor)), float(1 - found / len(genuine)))

    def roc(self) -> Roc:
        """Return the curve's corners: one at every distinct distance of a genuine pair, and both ends."""
        genuine, impostor = self._sorted
        self._check_pairs()
        distance, last = np.unique(genuine[::-1], return_index=True)
        tar = 1 - last / len(genuine)
        far = impostor.searchsorted(distance, "right") / len(impostor)
        low, high = min(genuine[0], impostor[0]), max(genuine[-1], impostor[-1])
        return Roc(np.r_[0.0, far, 1.0], np.r_[0.0, tar, 1.0], np.r_[low, distance, high].astype(np.float64))

    def tpr_at_fpr(self, fpr: float, convention: RocConvention = "verification") -> float:
        """Return the true-positive rate at a false-positive rate.

        Args:
            fpr: In [0, 1].
            convention: ``"verification"``: genuine pairs are the positives, and no more than `fpr` of the impostors is
                accepted: ``1 - threshold(fpr).frr``. ``"fastreid"``: as fast-reid and MetaBIN print it, to compare with
                their tables only. There impostors are the positives (the share of them that is rejected, where about
                `fpr` of the genuine pairs is), read at the corner of scikit-learn's curve whose rate is nearest to
                `fpr`, which for few genuine pairs is often the empty corner, 0.

        Raises:
            ConfigError: `fpr` is not in [0, 1], or there are no impostor pairs.
        """
        check_choice("convention", convention, ("verification", "fastreid"))
        if convention == "verification":
            return 1 - self.threshold(fpr).frr
        if not 0 <= fpr <= 1:
            raise ConfigError(f"fpr={fpr} is not a rate: give a share between 0 and 1, such as 1e-3.")
        genuine, impostor = self._sorted
        self._check_pairs()
        cuts = np.unique(np.concatenate([genuine, impostor]))[::-1]
        rejected = [len(x) - x.searchsorted(cuts, "left") for x in (genuine, impostor)]
        if len(cuts) > 2:  # scikit-learn drops the points between equal steps
            corner = np.r_[True, np.any([np.diff(r, 2) != 0 for r in rejected], axis=0), True]
            rejected = [r[corner] for r in rejected]
        false, true = (np.r_[0.0, r / len(x)] for r, x in zip(rejected, (genuine, impostor), strict=True))
        return float(true[np.abs(false - fpr).argmin()])

    def _check_pairs(self) -> None:
        if len(self.impostor) == 0:
            raise ConfigError(
                "There are no pairs of different persons, so there is no false-accept rate: every gallery image that "
                "counts shows the query's identity."
            )


class Impostors:
    """Keeps the distances of impostor pairs as tiles of them pass by: all, or an even selection of 4 million."""

    def __init__(self, pairs: int, distance: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        """Prepare for tiles with `pairs` values in all; `distance` turns a tile's values into distances."""
        self.step = max(1, -(-pairs // _KEPT))
        self._distance, self._kept = distance, list[NDArray[np.float32]]()

    def add(self, tile: NDArray[np.float32]) -> None:
        """Take values of a contiguous tile; infinite ones are no impostors."""
        step = self.step
        while gcd(step, tile.shape[1]) > 1:  # every column has its turn
            step += 1
        values = tile.reshape(-1)[::step]
        self._kept.append(self._distance(values[np.isfinite(values)]).astype(np.float32, copy=False))

    def scores(self, genuine: NDArray[Any], pairs: int) -> Scores:
        """Return them with the distances of the genuine pairs; `pairs` are the impostor pairs there are."""
        return Scores(genuine.astype(np.float32), np.concatenate([*self._kept, np.empty(0, np.float32)]), pairs)
