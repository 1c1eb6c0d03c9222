"""The loss against golden values of the published code, worked numbers, and the published formula written out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reidzoo.training.losses import IdentityDistillationLoss

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CASES = json.loads((GOLDEN / "loss_cases.json").read_text())
# Images per identity at the epoch for which a golden case was made.
K_FROM_EPOCH = ((0, 2), (40, 4), (60, 6), (80, 8))


def published(student: Tensor, teacher: Tensor, center: Tensor, views: int, k: int) -> Tensor:
    """Sum over view pairs, identities and ordered image pairs, as printed: O(K^2) terms, no algebra."""
    batch = len(teacher) // 2
    total = torch.zeros((), dtype=student.dtype)
    for u, v in itertools.product(range(2), range(views)):
        if u == v:
            continue
        q = ((teacher[u * batch : (u + 1) * batch] - center) / 0.04).softmax(-1)
        log_p = (student[v * batch : (v + 1) * batch] / 0.1).log_softmax(-1)
        h = -(q[:, None, :] * log_p[None, :, :]).sum(-1)  # (teacher row, student row)
        same = h.diagonal().mean()
        cross = sum(h[i::k, j::k].diagonal().mean() for i, j in itertools.product(range(k), repeat=2) if i != j)
        total = total + (same + cross) / (k * (k - 1) + 1)
    return total / (2 * views - 2)


@pytest.mark.parametrize("case", sorted(CASES))
def test_golden_values(case: str) -> None:
    spec, arrays = CASES[case], np.load(GOLDEN / "loss_cases.npz")
    k = [k for first, k in K_FROM_EPOCH if spec["epoch"] >= first][-1]
    loss = IdentityDistillationLoss(spec["out_dim"], spec["ncrops"]).double()
    for t in range(2):
        rng = np.random.default_rng([spec["seed"], t])
        student = 0.3 * rng.standard_normal((spec["ncrops"] * spec["batch"], spec["out_dim"]))
        teacher = 0.2 * rng.standard_normal((2 * spec["batch"], spec["out_dim"])) + 0.05
        x = torch.from_numpy(student.astype(np.float32)).double().requires_grad_()
        value = loss(x, torch.from_numpy(teacher.astype(np.float32)).double(), num_instances=k)
        value.backward()
        assert value.item() == pytest.approx(arrays[f"{case}/loss_fp64"][t], rel=1e-9)
        assert x.grad is not None
        assert x.grad.norm().item() == pytest.approx(arrays[f"{case}/grad_norm"][t], rel=2e-6)
        np.testing.assert_allclose(x.grad.flatten()[:32], arrays[f"{case}/grad_first32"][t].ravel(), atol=1e-8)
        np.testing.assert_allclose(loss.center[0], arrays[f"{case}/center"][t].ravel(), atol=1e-7)


@pytest.mark.parametrize(
    ("out_dim", "k", "groups", "views", "first", "second", "center"),
    [
        (5, 2, 2, 3, 5.337373765443255, 5.335717174782656, -0.002623908496984998),
        (7, 4, 3, 5, 9.846588379814488, 9.846573707126668, 0.00017909013629142028),
        (6, 1, 4, 4, 9.999740618197388, 9.980367336281155, 0.012663226207608078),
        (9, 8, 2, 10, 10.042225647507351, 10.042679172870896, 0.001202104081368977),
    ],
)
def test_worked_numbers(
    out_dim: int, k: int, groups: int, views: int, first: float, second: float, center: float
) -> None:
    batch = groups * k
    student = torch.sin(0.1 + torch.arange(views * batch * out_dim, dtype=torch.float64)).view(-1, out_dim)
    teacher = torch.cos(0.3 * torch.arange(2 * batch * out_dim, dtype=torch.float64)).view(-1, out_dim)
    loss = IdentityDistillationLoss(out_dim, views).double()
    assert loss(student, teacher, num_instances=k).item() == pytest.approx(first, abs=1e-12)
    assert loss.center[0, 0].item() == pytest.approx(center, abs=1e-12)
    assert loss(student, teacher, num_instances=k).item() == pytest.approx(second, abs=1e-12)


@pytest.mark.parametrize(("k", "views"), [(1, 2), (2, 2), (3, 4), (4, 10)])
def test_equals_the_published_formula_with_gradients(k: int, views: int) -> None:
    g = torch.Generator().manual_seed(k * 100 + views)
    student = torch.randn(views * 12, 17, generator=g, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(24, 17, generator=g, dtype=torch.float64)
    loss = IdentityDistillationLoss(17, views).double()
    loss.center.copy_(torch.randn(1, 17, generator=g, dtype=torch.float64))
    ours = loss(student, teacher, num_instances=k, update_center=False)
    plain = published(student, teacher, loss.center, views, k)
    assert ours.item() == pytest.approx(plain.item(), abs=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(ours, student)[0], torch.autograd.grad(plain, student)[0], atol=1e-14, rtol=1e-10
    )


def test_the_grouping_matters() -> None:
    """Pairing rows of different people is a different number: the test above would notice a wrong stride."""
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(24, 9, generator=g), torch.randn(16, 9, generator=g)
    loss = IdentityDistillationLoss(9, 3)
    mixed = torch.arange(8).view(4, 2).T.flatten()
    rows = torch.cat([mixed + 8 * v for v in range(3)])
    a = loss(student, teacher, num_instances=4, update_center=False)
    b = loss(student[rows], teacher[rows[:16]], num_instances=4, update_center=False)
    assert abs(a - b) > 1e-3


def test_no_gradient_reaches_teacher_and_the_centre_waits() -> None:
    loss = IdentityDistillationLoss(6, 2)
    teacher = torch.randn(8, 6, requires_grad=True)
    student = torch.randn(8, 6, requires_grad=True)
    loss(student, teacher, num_instances=2, update_center=False).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert loss.center.abs().sum() == 0
    loss(student, teacher, num_instances=2)
    torch.testing.assert_close(loss.center, 0.1 * teacher.detach().mean(0, keepdim=True))


def test_rows_that_do_not_fit_are_refused() -> None:
    loss = IdentityDistillationLoss(4, 3)
    with pytest.raises(ValueError, match="whole groups of 4"):
        loss(torch.randn(18, 4), torch.randn(12, 4), num_instances=4)
    with pytest.raises(ValueError, match="3 views of 6 images are 18"):
        loss(torch.randn(12, 4), torch.randn(12, 4), num_instances=2)


def test_half_precision_logits_give_a_float32_loss() -> None:
    loss = IdentityDistillationLoss(64, 4)
    student, teacher = torch.randn(32, 64), torch.randn(16, 64)
    low = loss(student.bfloat16(), teacher.bfloat16(), num_instances=2, update_center=False)
    full = loss(student.bfloat16().float(), teacher.bfloat16().float(), num_instances=2, update_center=False)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, full)
