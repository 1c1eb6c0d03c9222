"""t-SNE against its definition: entropy, divergence and its slope."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reidzoo.eval.projection import _MAX_ROWS, _neighbour_shares, _squares, gradient, project


def test_slope_is_that_of_the_divergence():
    rng = np.random.default_rng(0)
    target = rng.random((9, 9)) * (1 - np.eye(9))
    target = (target + target.T) / (target + target.T).sum()
    y = torch.from_numpy(rng.standard_normal((9, 2))).requires_grad_()
    q = 1 / (1 + ((y[:, None] - y) ** 2).sum(-1))
    q = q * (1 - torch.eye(9))
    p, off = torch.from_numpy(target), ~torch.eye(9, dtype=torch.bool)
    (p[off] * (p[off] / (q / q.sum())[off]).log()).sum().backward()
    np.testing.assert_allclose(gradient(y.detach().numpy(), target), y.grad.numpy(), atol=1e-12)


def test_each_row_looks_at_as_many_neighbours_as_asked():
    x = np.random.default_rng(1).standard_normal((60, 5))
    squares = _squares(x)
    np.testing.assert_allclose(squares, ((x[:, None] - x) ** 2).sum(-1), atol=1e-10)
    shares = _neighbour_shares(squares, 10.0)
    assert shares.sum() == pytest.approx(1)
    assert np.array_equal(shares, shares.T)
    assert (np.diag(shares) == 0).all()

    def row(i):
        """The shares of row i whose perplexity is nearest to 10, among many widths."""
        candidates = [np.exp(-beta * squares[i]) * (np.arange(60) != i) for beta in np.geomspace(0.03, 30, 4000)]
        rows = [c / c.sum() for c in candidates if c.sum() > 0]
        return min(rows, key=lambda p: abs(np.exp(-(p * np.log(p + 1e-300)).sum()) - 10))

    for i, j in ((0, 1), (5, 40)):
        assert shares[i, j] == pytest.approx((row(i)[j] + row(j)[i]) / 120, rel=2e-2)


def test_neighbours_stay_neighbours():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 15)
    x = 3 * rng.standard_normal((10, 64))[labels] + rng.standard_normal((150, 64))
    y = project(x)
    assert y.shape == (150, 2)
    assert np.abs(y.mean(0)).max() < 1e-9
    nearest = (_squares(y) + 1e9 * np.eye(150)).argmin(1)
    assert (labels[nearest] == labels).mean() > 0.98
    np.testing.assert_array_equal(y, project(x))
    np.testing.assert_array_equal(project(4 * x), y)  # rows are normalised


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_few_and_equal_rows(n):
    assert np.isfinite(project(np.random.default_rng(0).standard_normal((n, 4)))).all()
    assert np.isfinite(project(np.ones((n, 1)))).all()
    assert np.isfinite(project(np.zeros((n, 3)))).all()


def test_too_many_rows():
    with pytest.raises(ValueError, match="2001 rows"):
        project(np.zeros((_MAX_ROWS + 1, 2)))
