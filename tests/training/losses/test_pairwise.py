"""Losses that compare images, against their definitions as loops; what they all have in common."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy import exp, log

from reidzoo.training.losses import PAIRWISE

Array = np.ndarray
BATCHES = {
    "PK": np.repeat(np.arange(4), 3),
    "shuffled": np.array([2, 0, 1, 1, 0, 2, 0, 1]),
    "one image of some": np.array([5, 5, 5, 9, 9, 7, 1]),  # labels need not be 0, 1, 2, ...
    "no positive": np.arange(5),
    "no negative": np.zeros(4, dtype=int),
}


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def distance(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b))


def others(pids: Array, a: int) -> tuple[list[int], list[int]]:
    """Indices of an anchor's positives and negatives."""
    return [p for p in range(len(pids)) if pids[p] == pids[a] and p != a], [
        n for n in range(len(pids)) if pids[n] != pids[a]
    ]


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def hinge_or_soft(gap: float, margin: float | None) -> float:
    return float(log(1 + exp(gap))) if margin is None else max(0.0, gap + margin)


def triplet(x: Array, pids: Array, margin: float | None = None) -> float:
    terms = []
    for a in range(len(x)):
        positives, negatives = others(pids, a)
        farthest = max([distance(x[a], x[p]) for p in positives] + [1e-6])  # itself: the root of the floor
        nearest = min((distance(x[a], x[n]) for n in negatives), default=float("inf"))
        terms.append(hinge_or_soft(farthest - nearest, margin))
    return mean(terms)


def triplet_all(x: Array, pids: Array, margin: float | None = 0.3) -> float:
    terms = []
    for a in range(len(x)):
        positives, negatives = others(pids, a)
        for p in positives:
            terms += [hinge_or_soft(distance(x[a], x[p]) - distance(x[a], x[n]), margin) for n in negatives]
    return mean([t for t in terms if t > 0])


def triplet_mined(x: Array, pids: Array, margin: float = 0.3, epsilon: float = 0.1) -> float:
    x, terms = unit(x), []
    for a in range(len(x)):
        positives, negatives = others(pids, a)
        for p in positives:
            for n in negatives:
                hard_positive = x[a] @ x[p] - epsilon < max(x[a] @ x[j] for j in negatives)
                hard_negative = x[a] @ x[n] + epsilon > min(x[a] @ x[j] for j in positives)
                if hard_positive and hard_negative:
                    terms.append(max(0.0, distance(x[a], x[p]) - distance(x[a], x[n]) + margin))
    return mean([t for t in terms if t > 0])


def contrastive(x: Array, pids: Array, positive_margin: float = 0.0, negative_margin: float = 1.0) -> float:
    pairs = list(combinations(range(len(x)), 2))
    together = [max(0.0, distance(x[i], x[j]) - positive_margin) for i, j in pairs if pids[i] == pids[j]]
    apart = [max(0.0, negative_margin - distance(x[i], x[j])) for i, j in pairs if pids[i] != pids[j]]
    return mean([t for t in together if t > 0]) + mean([t for t in apart if t > 0])


def circle(x: Array, pids: Array, margin: float = 0.25, scale: float = 32) -> float:
    x, positive, negative = unit(x), 0.0, 0.0
    for i, j in combinations(range(len(x)), 2):
        s = x[i] @ x[j]
        if pids[i] == pids[j]:
            positive += exp(-scale * max(0.0, 1 + margin - s) * (s - (1 - margin)))
        else:
            negative += exp(scale * max(0.0, s + margin) * (s - margin))
    return float(log(1 + positive * negative))


def lifted(x: Array, pids: Array, margin: float = 1.0) -> float:
    terms = []
    for a in range(len(x)):
        positives, negatives = others(pids, a)
        pull = log(sum(exp(distance(x[a], x[p])) for p in positives)) if positives else 0.0
        push = log(sum(exp(margin - distance(x[a], x[n])) for n in negatives)) if negatives else 0.0
        terms.append(max(0.0, float(pull + push)))
    return mean(terms)


def instance(x: Array, pids: Array, scale: float = 32) -> float:
    logits = scale * unit(x) @ unit(x).T
    return mean([float(log(sum(exp(row - row[i])))) for i, row in enumerate(logits)])


def instance_id(x: Array, pids: Array, scale: float = 32) -> float:
    means = np.stack([unit(x)[pids == pid].mean(0) for pid in sorted(set(pids))])
    logits = scale * means @ means.T
    return mean([float(log(sum(exp(row - row[i])))) for i, row in enumerate(logits)])


DEFINITIONS: dict[str, Callable[..., float]] = {
    f.__name__: f for f in (triplet, triplet_all, triplet_mined, contrastive, circle, lifted, instance, instance_id)
}
SETTINGS: list[tuple[str, dict[str, float | None]]] = [
    *((name, {}) for name in DEFINITIONS),
    ("triplet", {"margin": 0.0}),
    ("triplet", {"margin": 0.3}),
    ("triplet_all", {"margin": None}),
    ("triplet_all", {"margin": 1.0}),
    ("triplet_mined", {"margin": 0.05, "epsilon": 0.4}),
    ("contrastive", {"positive_margin": 0.6, "negative_margin": 1.4}),
    ("circle", {"margin": 0.4, "scale": 80}),
    ("lifted", {"margin": 0.2}),
    ("instance", {"scale": 64}),
    ("instance_id", {"scale": 4}),
]


def batch(pids: Array, seed: int = 0) -> Array:
    """Features in which identities are loosely together: with pure noise few hinges would be at work."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((10, 6))
    return np.asarray(centers[pids] + rng.standard_normal((len(pids), 6)))


def test_every_loss_has_its_definition() -> None:
    assert set(PAIRWISE) == set(DEFINITIONS)


@pytest.mark.parametrize("pids", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("normalised", [False, True], ids=["as they are", "unit"])
@pytest.mark.parametrize(
    ("name", "settings"), SETTINGS, ids=lambda v: v if isinstance(v, str) else str(v or "defaults")
)
def test_equals_the_definition(name: str, settings: dict[str, float | None], pids: Array, normalised: bool) -> None:
    x = unit(batch(pids)) if normalised else batch(pids)
    loss = PAIRWISE[name](torch.from_numpy(x), torch.from_numpy(pids), **settings)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(DEFINITIONS[name](x, pids, **settings), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("pids", BATCHES.values(), ids=BATCHES.keys())
def test_gradient(name: str, pids: Array) -> None:
    """Finite also where there is no positive or no negative; right by finite differences of the definition."""
    x = torch.from_numpy(batch(pids)).requires_grad_()
    PAIRWISE[name](x, torch.from_numpy(pids)).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    if name == "circle":
        return  # its weights have no gradient, which differences would show: test_circle_weights_are_constants
    direction = np.random.default_rng(1).standard_normal(x.shape)
    ahead, behind = (DEFINITIONS[name](batch(pids) + step * direction, pids) for step in (1e-6, -1e-6))
    assert (x.grad.numpy() * direction).sum() == pytest.approx((ahead - behind) / 2e-6, rel=1e-4, abs=1e-6)


def test_circle_weights_are_constants() -> None:
    """By hand: d L / d s_j of the negatives is Z softmax_j g a_j, of the positives -Z softmax_i g a_i."""
    pids, g, m = BATCHES["PK"], 32, 0.25
    x = torch.from_numpy(unit(batch(pids))).requires_grad_()
    PAIRWISE["circle"](x, torch.from_numpy(pids)).backward()
    u = unit(batch(pids))
    slope = np.zeros((len(u), len(u)))
    value = np.zeros_like(slope)
    for i, j in combinations(range(len(u)), 2):
        s, same = u[i] @ u[j], pids[i] == pids[j]
        weight = max(0.0, 1 + m - s) if same else max(0.0, s + m)
        value[i, j] = exp(-g * weight * (s - 1 + m) if same else g * weight * (s - m))
        slope[i, j] = -g * weight if same else g * weight
    same = pids[:, None] == pids
    positive, negative = value[same].sum(), value[~same].sum()
    slope *= value / np.where(same, positive, negative) * (1 - 1 / (1 + positive * negative))
    through_unit = (slope + slope.T) @ u
    expected = through_unit - (through_unit * u).sum(1, keepdims=True) * u
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", PAIRWISE)
def test_identical_features_have_a_finite_gradient(name: str) -> None:
    x = torch.ones(6, 5, requires_grad=True)
    loss = PAIRWISE[name](x, torch.tensor([0, 0, 1, 1, 2, 2]))
    loss.backward()
    assert torch.isfinite(loss)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", PAIRWISE)
def test_float32_under_autocast(name: str) -> None:
    """Half-precision features in; no product of them is made in half precision."""
    pids = torch.from_numpy(BATCHES["PK"])
    x = torch.from_numpy(batch(BATCHES["PK"])).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = PAIRWISE[name](x, pids)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, PAIRWISE[name](x.detach().float(), pids), rtol=0, atol=0)
    loss.backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", PAIRWISE)
def test_compiles_into_one_graph(name: str) -> None:
    pids = torch.from_numpy(BATCHES["PK"])
    x, y = (torch.from_numpy(batch(BATCHES["PK"])).float().requires_grad_() for _ in range(2))
    compiled = torch.compile(PAIRWISE[name], fullgraph=True, backend="aot_eager", dynamic=False)
    compiled(x, pids).backward()
    PAIRWISE[name](y, pids).backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_wrong_shapes_are_said() -> None:
    with pytest.raises(ValueError, match=r"circle takes features \(B, D\) and pids \(B,\), not \(4, 3\) and \(5,\)"):
        PAIRWISE["circle"](torch.zeros(4, 3), torch.zeros(5))


@pytest.mark.parametrize("name", PAIRWISE)
def test_nan_comes_through(name: str) -> None:
    """The loop stops a run whose loss is not finite: no comparison with NaN may hide one."""
    x = torch.from_numpy(batch(BATCHES["PK"]))
    x[3, 2] = torch.nan
    assert PAIRWISE[name](x, torch.from_numpy(BATCHES["PK"])).isnan()
