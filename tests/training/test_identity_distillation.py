"""The loss against golden values of the published code, worked numbers, and the published formula written out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from reidzoo.models import DINOHead
from reidzoo.training.losses import IdentityDistillationLoss, _distillation
from reidzoo.training.methods.dino import MultiCropNetwork

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


def printed(student: Tensor, teacher: Tensor, center: Tensor, views: int, k: int) -> Tensor:
    """Average over the pairs of two different views of one person's images, as in the paper: one term at a time."""
    batch, terms = len(teacher) // 2, []
    for i, j in itertools.product(range(batch), repeat=2):
        for u, v in itertools.product(range(2), range(views)):
            if i // k == j // k and (i, u) != (j, v):
                q = ((teacher[u * batch + i] - center[0]) / 0.04).softmax(-1)
                terms.append(-(q * (student[v * batch + j] / 0.1).log_softmax(-1)).sum())
    assert len(terms) == batch // k * (2 * views * k**2 - 2 * k)
    return torch.stack(terms).mean()


PUBLISHED = {"release": published, "paper": printed}


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


def test_worked_number_of_the_paper() -> None:
    student = torch.sin(0.1 + torch.arange(60, dtype=torch.float64)).view(12, 5)
    teacher = torch.cos(0.3 * torch.arange(40, dtype=torch.float64)).view(8, 5)
    loss = IdentityDistillationLoss(5, 3, variant="paper").double()
    assert loss(student, teacher, num_instances=2).item() == pytest.approx(5.323803386195371, abs=1e-12)


@pytest.mark.parametrize("variant", ["release", "paper"])
@pytest.mark.parametrize(("k", "views"), [(1, 2), (2, 2), (3, 4), (4, 10)])
def test_equals_the_published_formula_with_gradients(k: int, views: int, variant: str) -> None:
    g = torch.Generator().manual_seed(k * 100 + views)
    student = torch.randn(views * 12, 17, generator=g, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(24, 17, generator=g, dtype=torch.float64)
    loss = IdentityDistillationLoss(17, views, variant=variant).double()
    loss.center.copy_(torch.randn(1, 17, generator=g, dtype=torch.float64))
    ours = loss(student, teacher, num_instances=k, update_center=False)
    plain = PUBLISHED[variant](student, teacher, loss.center, views, k)
    assert ours.item() == pytest.approx(plain.item(), abs=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(ours, student)[0], torch.autograd.grad(plain, student)[0], atol=1e-14, rtol=1e-10
    )


class Case:
    """Bottleneck outputs, a last layer and teacher logits of 12 images, and the criterion with a centre."""

    def __init__(self, views: int, width: int = 17, dtype: torch.dtype = torch.float64, **options: str) -> None:
        g = torch.Generator().manual_seed(views)
        self.student = F.normalize(torch.randn(views * 12, 8, generator=g, dtype=dtype), dim=-1).requires_grad_()
        self.weight = F.normalize(torch.randn(width, 8, generator=g, dtype=dtype), dim=-1).requires_grad_()
        self.teacher = torch.randn(24, width, generator=g, dtype=dtype)
        self.loss = IdentityDistillationLoss(width, views, **options).to(dtype)
        self.loss.center.copy_(torch.randn(1, width, generator=g, dtype=dtype))

    def fused(self, k: int) -> Tensor:
        return self.loss.fused(self.student, self.weight, self.teacher, num_instances=k, update_center=False)

    def plain(self, k: int) -> Tensor:
        return self.loss(self.student @ self.weight.T, self.teacher, num_instances=k, update_center=False)

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(3 * loss, [self.student, self.weight])


@pytest.fixture(params=[1, 2**23], ids=["one identity per block", "one block"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_distillation.BLOCK, "cpu", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("variant", ["release", "paper"])
@pytest.mark.parametrize(("k", "views"), [(1, 2), (3, 4), (4, 10)])
def test_fused_equals_the_published_formula(k: int, views: int, variant: str) -> None:
    f = Case(views, variant=variant)
    ours, plain = f.fused(k), PUBLISHED[variant](f.student @ f.weight.T, f.teacher, f.loss.center, views, k)
    assert ours.item() == pytest.approx(plain.item(), abs=1e-12)
    torch.testing.assert_close(f.gradients(ours), f.gradients(plain), atol=1e-14, rtol=1e-10)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("variant", ["release", "paper"])
def test_gradients_by_differences(variant: str) -> None:
    f = Case(3, width=5, variant=variant)

    def logits(student: Tensor, weight: Tensor) -> Tensor:
        return f.loss(student @ weight.T, f.teacher, num_instances=2, update_center=False)

    def fused(student: Tensor, weight: Tensor) -> Tensor:
        return f.loss.fused(student, weight, f.teacher, num_instances=2, update_center=False)

    assert torch.autograd.gradcheck(logits, (f.student, f.weight), fast_mode=True)
    assert torch.autograd.gradcheck(fused, (f.student, f.weight), fast_mode=True)


def test_backward_waits_for_nobody() -> None:
    """The centre may move, and another backward may come, between a forward and its backward."""
    f = Case(3)
    expected = [f.gradients(f.plain(2)), f.gradients(f.fused(2))]
    for loss, gradients in zip((f.plain(2), f.fused(2)), expected, strict=True):
        f.loss.update_center(f.teacher)
        for _ in range(2):
            again = torch.autograd.grad(3 * loss, [f.student, f.weight], retain_graph=True)
            torch.testing.assert_close(again, gradients, atol=0, rtol=0)
        f.loss.center.copy_(Case(3).loss.center)


def test_a_frozen_last_layer_gets_no_gradient() -> None:
    f = Case(3)
    expected = f.gradients(f.fused(2))[0] / 3
    f.weight.requires_grad_(False)
    f.fused(2).backward()
    assert f.weight.grad is None
    torch.testing.assert_close(f.student.grad, expected)
    with torch.no_grad():
        assert f.fused(2).item() == pytest.approx(f.plain(2).item(), abs=1e-12)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(t.numel() for t in torch.utils._pytree.tree_leaves(out) if torch.is_tensor(t))])
        return out


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_fused_never_holds_the_logits(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_distillation.BLOCK, "cpu", 1)
    f = Case(10, width=2000, variant=variant)
    with Largest() as seen:
        f.fused(2).backward()
    assert seen.numel == 24 * 2000, "nothing is larger than the teacher's logits, which are given, or a block"
    with Largest() as seen:
        f.plain(2).backward()
    assert seen.numel == 120 * 2000


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_float32_at_the_released_width(variant: str) -> None:
    f = Case(3, width=65336, dtype=torch.float32, variant=variant)
    f.loss.center.zero_()
    values, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        student, weight = (t.detach().to(dtype).requires_grad_() for t in (f.student, f.weight))
        criterion = f.loss.to(dtype)
        teacher = f.teacher.to(dtype) / 10  # as far apart as cosines are
        values.append(criterion.fused(student, weight, teacher, num_instances=4, update_center=False))
        gradients.append(torch.autograd.grad(values[-1], [student, weight]))
    assert values[0].item() == pytest.approx(values[1].item(), rel=2e-6)
    for ours, exact in zip(*gradients, strict=True):
        assert (ours.double() - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    """The product is in low precision, as that of any linear layer; sums and gradients stay float32."""
    f = Case(4, width=300, dtype=torch.float32)
    exact = f.fused(4)
    with torch.autocast("cpu", dtype):
        low, linear = f.fused(4), f.loss(F.linear(f.student, f.weight), f.teacher, num_instances=4, update_center=False)
    assert low.dtype == linear.dtype == torch.float32
    eps = torch.finfo(dtype).eps
    assert low.item() == pytest.approx(exact.item(), rel=eps)
    assert low.item() == pytest.approx(linear.item(), rel=eps)
    for name, ours, wanted in zip("xw", f.gradients(low), f.gradients(exact), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - wanted).norm() < 4 * eps * wanted.norm(), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    student = (3e4 * torch.randn(12, 9, generator=g)).clamp(-6e4, 6e4).to(dtype).requires_grad_()
    teacher = (3e4 * torch.randn(8, 9, generator=g)).clamp(-6e4, 6e4).to(dtype)
    loss = IdentityDistillationLoss(9, 3)(student, teacher, num_instances=2)
    exact = published(student.detach().double(), teacher.double(), torch.zeros(1, 9), 3, 2)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_what_is_not_a_number_is_passed_on() -> None:
    f = Case(3)
    with torch.no_grad():
        f.student[0, 0] = torch.nan
    assert f.fused(2).isnan()
    assert f.plain(2).isnan()


def test_entropy() -> None:
    f = Case(3)
    q = ((f.teacher - f.loss.center) / 0.04).softmax(-1)
    assert f.loss.entropy(f.teacher).item() == pytest.approx(-torch.special.xlogy(q, q).sum(-1).mean().item())
    same = IdentityDistillationLoss(50, 2).entropy(torch.ones(4, 50))
    assert same.item() == pytest.approx(np.log(50))


def test_the_network_gives_the_factors_of_its_logits() -> None:
    torch.manual_seed(0)
    network = MultiCropNetwork(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), DINOHead(3, 20, hidden_dim=8))
    views = [torch.randn(4, 3, 8, 4), torch.randn(4, 3, 8, 4), torch.randn(4, 3, 4, 2)]
    loss, teacher = IdentityDistillationLoss(20, 3), torch.randn(8, 20)
    logits, _ = network(views)
    (student, weight), _ = network(views, factors=True)
    torch.testing.assert_close(student @ weight.T, logits)
    gradients = []
    for value in (
        loss(logits, teacher, num_instances=2, update_center=False),
        loss.fused(student, weight, teacher, num_instances=2, update_center=False),
    ):
        network.zero_grad()
        value.backward()
        gradients.append([p.grad for p in network.parameters() if p.requires_grad])
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


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
    with pytest.raises(ValueError, match="whole groups of 0"):
        loss(torch.randn(18, 4), torch.randn(12, 4), num_instances=0)
    with pytest.raises(ValueError, match="student has 12 rows"):
        loss.fused(torch.randn(12, 2), torch.randn(4, 2), torch.randn(12, 4), num_instances=2)
    with pytest.raises(ValueError, match="variant is 'papre', expected one of release, paper"):
        IdentityDistillationLoss(4, 3, variant="papre")


def test_half_precision_logits_give_a_float32_loss() -> None:
    loss = IdentityDistillationLoss(64, 4)
    student, teacher = torch.randn(32, 64), torch.randn(16, 64)
    low = loss(student.bfloat16(), teacher.bfloat16(), num_instances=2, update_center=False)
    full = loss(student.bfloat16().float(), teacher.bfloat16().float(), num_instances=2, update_center=False)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, full)
