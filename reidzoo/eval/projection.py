"""Features in the plane, to be looked at: t-SNE, small enough to read.

Source: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_EXAGGERATION, _EARLY = 12.0, 250  # the first steps pull harder: clusters form before they are laid out
_MAX_ROWS = 2000  # N x N arrays


def project(features: NDArray[Any], *, perplexity: float = 20.0, steps: int = 750) -> Floats:
    """Place rows in the plane so that near neighbours stay near; far distances say little.

    Exact t-SNE of the normalised rows, begun at their two principal components: the same input, the same picture.

    Args:
        features: (N, D) finite numbers, N at most 2000.
        perplexity: How many neighbours a row looks at, about; lowered where there are few rows.
        steps: Of gradient descent.

    Returns:
        (N, 2), centred.

    Raises:
        ValueError: More rows than fit.
    """
    x = np.asarray(features, np.float64)
    if len(x) > _MAX_ROWS:
        raise ValueError(f"{len(x)} rows do not fit; choose {_MAX_ROWS} at most.")
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    y = _principal(x)
    if len(x) < 5:
        return y
    target = _neighbour_shares(_squares(x), min(perplexity, (len(x) - 1) / 3))
    y = y * (1e-2 / max(float(y.std()), 1e-12))
    speed, gain = np.zeros_like(y), np.ones_like(y)
    rate = max(len(x) / _EXAGGERATION / 4, 50.0)
    for step in range(steps):
        early = step < _EARLY
        slope = gradient(y, target * (_EXAGGERATION if early else 1.0))
        gain = np.maximum(np.where(slope * speed > 0, gain * 0.8, gain + 0.2), 0.01)
        speed = (0.5 if early else 0.8) * speed - rate * gain * slope
        y = y + speed
    centred: Floats = y - y.mean(0)
    return centred


def gradient(y: Floats, target: Floats) -> Floats:
    """Return the slope (N, 2) of the divergence of the placed shares from `target`, (N, N) with sum 1."""
    closeness = 1 / (1 + _squares(y))
    np.fill_diagonal(closeness, 0)
    force = (target - closeness / closeness.sum()) * closeness
    slope: Floats = 4 * (force.sum(1)[:, None] * y - force @ y)
    return slope


def _neighbour_shares(squares: Floats, perplexity: float) -> Floats:
    """Return (N, N) shares of attention, symmetric with sum 1; each row's width fits the perplexity, by bisection."""
    n = len(squares)
    low, high, beta = np.zeros(n), np.full(n, np.inf), np.ones(n) / max(float(squares.mean()), 1e-12)
    away = squares + np.where(np.eye(n, dtype=bool), np.inf, 0)
    away -= away.min(1, keepdims=True)
    for _ in range(64):
        weights = np.exp(-away * beta[:, None])
        shares = weights / weights.sum(1, keepdims=True)
        entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(1)
        wide = entropy > math.log(perplexity)
        low, high = np.where(wide, beta, low), np.where(wide, high, beta)
        beta = np.where(np.isinf(high), beta * 2, (low + high) / 2)
    symmetric: Floats = (shares + shares.T) / (2 * n)
    return symmetric


def _principal(x: Floats) -> Floats:
    """Return the two principal components (N, 2), each with its largest value positive."""
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    y = np.zeros((len(x), 2))
    k = min(2, len(s))
    y[:, :k] = u[:, :k] * s[:k]
    sign = np.sign(y[np.abs(y).argmax(0), np.arange(2)])
    return y * np.where(sign == 0, 1, sign)


def _squares(x: Floats) -> Floats:
    norm = (x * x).sum(1)
    squares: Floats = np.maximum(norm[:, None] + norm - 2 * x @ x.T, 0)
    return squares
