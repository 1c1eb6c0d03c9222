from __future__ import annotations

import numpy as np
import pytest
import torch

from reidzoo.training.losses import batch_hard_triplet


def plain(features: np.ndarray, pids: np.ndarray, margin: float | None) -> float:
    """Hermans et al., equation 5, with loops."""
    terms = []
    for a in range(len(pids)):
        d = [float(np.linalg.norm(features[a] - features[b])) for b in range(len(pids))]
        positive = max(d[b] for b in range(len(pids)) if pids[b] == pids[a])
        negative = min(d[b] for b in range(len(pids)) if pids[b] != pids[a])
        gap = positive - negative
        terms.append(np.log1p(np.exp(gap)) if margin is None else max(0.0, gap + margin))
    return float(np.mean(terms))


@pytest.mark.parametrize("margin", [None, 0.0, 0.3])
@pytest.mark.parametrize(("p", "k"), [(2, 2), (4, 3), (8, 4)])
def test_equals_the_definition(p: int, k: int, margin: float | None) -> None:
    rng = np.random.default_rng(p * k)
    features = rng.standard_normal((p * k, 6)).astype(np.float32)
    pids = np.repeat(np.arange(p), k)
    loss = batch_hard_triplet(torch.from_numpy(features), torch.from_numpy(pids), margin=margin)
    assert loss.item() == pytest.approx(plain(features, pids, margin), abs=1e-5)


def test_unequal_counts_per_identity() -> None:
    features = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    pids = np.array([0, 0, 0, 1, 1, 2])
    loss = batch_hard_triplet(torch.from_numpy(features), torch.from_numpy(pids))
    assert loss.item() == pytest.approx(plain(features, pids, None), abs=1e-5)


def test_identical_features_have_a_finite_gradient() -> None:
    x = torch.ones(4, 5, requires_grad=True)
    batch_hard_triplet(x, torch.tensor([0, 0, 1, 1])).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
