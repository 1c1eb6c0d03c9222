"""Losses on classes: margins on cosines, smoothed cross-entropy, centre loss; each against a plain computation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from reidzoo.errors import ConfigError
from reidzoo.models.heads import CosineClassifier
from reidzoo.training.losses import MARGIN, CenterLoss, cross_entropy, sphereface

# Angles of the right class over all of [0, pi], both sides of every threshold.
ANGLES = np.concatenate([np.linspace(0.01, math.pi - 0.01, 25), [1e-3, math.pi - 1e-3, math.pi / 4, math.pi / 2]])


def arcface(c: float, right: bool, s: float, m: float) -> float:
    if not right:
        return s * c
    theta = math.acos(c)
    return s * (math.cos(theta + m) if theta < math.pi - m else c - m * math.sin(math.pi - m))


def cosface(c: float, right: bool, s: float, m: float) -> float:
    return s * (c - m) if right else s * c


def circle(c: float, right: bool, s: float, m: float) -> float:
    return s * max(0.0, 1 + m - c) * (c - (1 - m)) if right else s * max(0.0, c + m) * (c - m)


def sphere(c: float, right: bool, s: float, m: float) -> float:
    if not right:
        return s * c
    k = int(m * math.acos(c) / math.pi)
    return s * ((-1) ** k * math.cos(m * math.acos(c)) - 2 * k)


DEFINITIONS: dict[str, tuple[Callable[[float, bool, float, float], float], tuple[float, float]]] = {
    "arcface": (arcface, (64, 0.5)),
    "cosface": (cosface, (64, 0.35)),
    "amsoftmax": (cosface, (30, 0.35)),
    "circle": (circle, (64, 0.35)),
    "sphereface": (sphere, (1, 4)),
}


def cosines() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pids = rng.integers(0, 5, len(ANGLES))
    c = rng.uniform(-1, 1, (len(ANGLES), 5))
    c[np.arange(len(c)), pids] = np.cos(ANGLES)
    return c, pids


@pytest.mark.parametrize("name", MARGIN)
@pytest.mark.parametrize("settings", [None, (30, 0.2), (7, 0.9), (30, 1), (7, 3)], ids=str)
def test_margin_equals_the_definition(name: str, settings: tuple[float, float] | None) -> None:
    define, defaults = DEFINITIONS[name]
    s, m = settings or defaults
    c, pids = (torch.from_numpy(v) for v in cosines())
    if name == "sphereface" and m < 1:
        with pytest.raises(ConfigError, match="a whole number from 1, not 0"):
            MARGIN[name](c, pids, scale=s, margin=m)
        return
    logits = MARGIN[name](c, pids, **({"scale": s, "margin": m} if settings else {}))
    expected = [[define(float(c[i, j]), bool(j == pids[i]), s, m) for j in range(5)] for i in range(len(c))]
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-9, atol=2e-6 * s)


@pytest.mark.parametrize("name", MARGIN)
def test_margin_has_finite_slopes_at_the_ends(name: str) -> None:
    """Rounding puts cosines of unit vectors on 1 and beyond it."""
    c = torch.tensor([[1.0, -1.0, 0.2], [1.0000001, -1.0000001, 0.2], [-1.0, 1.0, 1.0]], requires_grad=True)
    for pids in (torch.tensor([0, 0, 0]), torch.tensor([1, 1, 1])):
        loss = cross_entropy(MARGIN[name](c, pids), pids)
        (grad,) = torch.autograd.grad(loss, c)
        assert torch.isfinite(loss)
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("name", MARGIN)
def test_margin_makes_the_right_class_harder_and_falls_with_the_angle(name: str) -> None:
    c = torch.from_numpy(np.cos(np.linspace(0.3, 3.1, 200)))[:, None]
    pids = torch.zeros(200, dtype=torch.long)
    logits = MARGIN[name](torch.cat([c, c], 1), pids)
    # Circle's logit is a parabola in the cosine: it is monotonous where its weight is held constant, not here.
    assert (logits[:, 0] < logits[:, 1]).all()
    assert name == "circle" or (logits[1:, 0] < logits[:-1, 0]).all()


def test_circle_softmax_weights_are_constants() -> None:
    c = torch.tensor([[0.6, 0.1, -0.9]], dtype=torch.float64, requires_grad=True)
    MARGIN["circle"](c, torch.tensor([0]), scale=10, margin=0.25).sum().backward()
    assert c.grad is not None
    np.testing.assert_allclose(c.grad.numpy(), [[10 * (1.25 - 0.6), 10 * 0.35, 0.0]])


def test_sphereface_scale_may_be_the_lengths() -> None:
    c, pids = (torch.from_numpy(v) for v in cosines())
    lengths = torch.rand(len(c), 1, dtype=torch.float64) + 1
    torch.testing.assert_close(sphereface(c, pids, scale=lengths), lengths * sphereface(c, pids))


def test_cosine_classifier() -> None:
    torch.manual_seed(0)
    classifier, x = CosineClassifier(6, 4), torch.randn(5, 6) * 3
    assert [k for k, _ in classifier.named_parameters()] == ["weight"]
    a, w = x.double().numpy(), classifier.weight.detach().double().numpy()
    expected = a @ w.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(w, axis=1)
    torch.testing.assert_close(classifier(x).double(), torch.from_numpy(expected), rtol=0, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(classifier(x), classifier.eval()(x))
        assert classifier(x.bfloat16()).dtype == torch.float32
        assert MARGIN["arcface"](classifier(x), torch.zeros(5, dtype=torch.long)).dtype == torch.float32


def test_margin_compiles_with_its_classifier() -> None:
    classifier, pids = CosineClassifier(6, 4), torch.tensor([0, 1, 3])

    def loss(x: Tensor) -> Tensor:
        c = classifier(x)
        return torch.stack([cross_entropy(f(c, pids), pids) for f in MARGIN.values()])

    x = torch.randn(3, 6)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(x), loss(x))


@pytest.mark.parametrize("classes", [2, 7, 751])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("convention", ["standard", "fastreid"])
def test_cross_entropy_equals_the_definition(classes: int, smoothing: float, convention: str) -> None:
    rng = np.random.default_rng(classes)
    logits, pids = 3 * rng.standard_normal((8, classes)), rng.integers(0, classes, 8)
    terms = []
    for row, pid in zip(logits, pids, strict=True):
        if convention == "standard":
            target = np.full(classes, smoothing / classes)
            target[pid] += 1 - smoothing
        else:
            target = np.full(classes, smoothing / (classes - 1))
            target[pid] = 1 - smoothing
        terms.append(-(target * (row - np.log(np.exp(row).sum()))).sum())
    loss = cross_entropy(torch.from_numpy(logits), torch.from_numpy(pids), smoothing, convention)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-9)


def test_cross_entropy_of_half_logits_is_exact() -> None:
    logits, pids = torch.randn(4, 9).half(), torch.tensor([0, 3, 8, 1])
    assert torch.equal(cross_entropy(logits, pids, 0.1), cross_entropy(logits.float(), pids, 0.1))


def test_cross_entropy_names_its_conventions() -> None:
    with pytest.raises(ConfigError, match=r"standard, fastreid.*Did you mean 'fastreid'"):
        cross_entropy(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), 0.1, "fast-reid")


def test_center_loss_and_its_centres_follow_the_paper() -> None:
    """Algorithm 1 of Wen et al. with loops, over three steps with unequal counts and an absent identity."""
    rng = np.random.default_rng(0)
    loss_of, centers = CenterLoss(4, 3, rate=0.5), np.zeros((4, 3))
    for step in range(3):
        x, pids = rng.standard_normal((6, 3)), np.array([0, 2, 2, 0, 2, step % 2])
        features = torch.from_numpy(x).requires_grad_()
        loss = loss_of(features, torch.from_numpy(pids))
        loss.backward()
        assert loss.item() == pytest.approx(np.mean([((x[i] - centers[pids[i]]) ** 2).sum() / 2 for i in range(6)]))
        assert features.grad is not None
        np.testing.assert_allclose(features.grad.numpy(), (x - centers[pids]) / 6, atol=1e-6)
        moved = centers.copy()
        for j in range(4):
            mine = [i for i in range(6) if pids[i] == j]
            moved[j] -= 0.5 * sum((centers[j] - x[i] for i in mine), np.zeros(3)) / (1 + len(mine))
        centers = moved
        np.testing.assert_allclose(loss_of.centers.numpy(), centers, atol=1e-6)
    assert not loss_of.centers[3].any(), "no image, no move"

    before = loss_of.centers.clone()
    loss_of.eval()(torch.randn(2, 3), torch.tensor([0, 1]))
    assert torch.equal(loss_of.centers, before)
    assert list(loss_of.state_dict()) == ["centers"]
    assert not list(loss_of.parameters())


def test_center_loss_pulls_images_together() -> None:
    torch.manual_seed(0)
    loss_of, pids = CenterLoss(3, 4), torch.arange(3).repeat_interleave(5)
    x = torch.randn(15, 4, requires_grad=True)
    spread = [x.detach().view(3, 5, 4).std(1).mean()]
    for _ in range(50):
        (grad,) = torch.autograd.grad(loss_of(x, pids), x)
        x.data -= grad
    spread.append(x.detach().view(3, 5, 4).std(1).mean())
    assert spread[1] < 0.1 * spread[0]
    assert x.detach().view(3, 5, 4).mean(1).std(0).mean() > 0.1, "each identity has a centre of its own"
