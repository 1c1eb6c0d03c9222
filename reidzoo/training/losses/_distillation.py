"""The arithmetic of `IdentityDistillationLoss`: blocks of rows, each passed over once, with hand-written gradients.

Cross-entropy is linear in its target, so all that a student row learns from is one distribution, the mean of its
teachers' (`SoftTargets`), and the gradient of its cross-entropy by its logits s is softmax(s) - target. Neither the
targets of a batch nor, in `Fused`, its logits ever exist as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of a block's logits and targets: few enough for the caches and the memory, enough for the matrix products.
BLOCK = {"cpu": 2**23, "cuda": 2**26}


@dataclass(frozen=True)
class SoftTargets:
    """What each student row should predict, made block by block.

    Attributes:
        teacher: (2, B, O) logits, K consecutive rows per identity.
        center: (1, O), subtracted from them.
        temp: temperature.
        k: K, which divides B.
        variant: ``release`` or ``paper``, see `IdentityDistillationLoss`.
        dtype: of the targets.
    """

    teacher: Tensor
    center: Tensor
    temp: float
    k: int
    variant: str
    dtype: torch.dtype

    def shares(self, views: int) -> list[float]:
        """Return each view's weight of a row's cross-entropy; over V * B rows they sum to 1."""
        # How many (teacher view, image) pairs a row learns from; the release weighs an identity's images as one.
        pairs = 2 * (self.k if self.variant == "paper" else 1)
        total = self.teacher.shape[1] * (pairs * views - 2)
        # A global view does not learn from itself.
        return [(pairs - (v < 2)) / total for v in range(views)]

    def blocks(self, views: int) -> Iterator[slice]:
        """Cut the B images into runs of whole identities."""
        _, batch, width = self.teacher.shape
        budget = BLOCK.get(self.teacher.device.type, BLOCK["cuda"])
        size = self.k * max(1, budget // ((views + 3) * width * self.k))
        for start in range(0, batch, size):
            yield slice(start, min(start + size, batch))

    def block(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the targets (b, O) of the first and the second global view and of every local view."""
        q = self._logits(rows).softmax(-1)
        q = q.view(2, -1, self.k, q.shape[-1])  # per identity
        sums = q.sum(2, keepdim=True)
        if self.variant == "paper":
            total = sums[0] + sums[1]
            local = (total / (2 * self.k)).expand_as(q[0]).flatten(0, 1)
            q.neg_().add_(total).div_(2 * self.k - 1)
            return q[0].flatten(0, 1), q[1].flatten(0, 1), local
        pairs = self.k * (self.k - 1) + 1
        q.mul_((1 - self.k) / pairs).add_(sums, alpha=self.k / pairs)
        first, second = q.flatten(1, 2)
        return second, first, torch.lerp(first, second, 0.5)

    def of_views(self, views: int) -> Iterator[tuple[slice, int, float, Tensor]]:
        """Go through blocks of images and their views: rows, view, its share and its target (b, O)."""
        shares = self.shares(views)
        for rows in self.blocks(views):
            targets = self.block(rows)
            for v, share in enumerate(shares):
                yield rows, v, share, targets[min(v, 2)]

    def entropy(self) -> Tensor:
        """Return the mean entropy of the teacher's distributions, in nats."""
        total = self.teacher.new_zeros((), dtype=self.dtype)
        for rows in self.blocks(2):
            log_q = self._logits(rows).log_softmax(-1)
            total -= torch.dot(log_q.exp().flatten(), log_q.flatten())
        return total / (2 * self.teacher.shape[1])

    def _logits(self, rows: slice) -> Tensor:
        wide = self.teacher[:, rows].to(self.dtype)
        return torch.add(self.center.to(self.dtype) / -self.temp, wide, alpha=1 / self.temp)


MakeTargets = Callable[[Tensor, Tensor], SoftTargets]


def exponentials(logits: Tensor, temp: float, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return all that the loss and its gradient need of a view's `logits` (b, O).

    Returns:
        The sum of the cross-entropies of softmax(logits / temp) with `target`; exp(logits / temp - max), newly made;
        its sums and the maxima, each (b, 1).
    """
    top = logits.amax(-1, keepdim=True) / temp
    s = torch.add(-top, logits, alpha=1 / temp)
    # The target sums to 1: the maximum is left out here and in the logarithm of the sum.
    agreement = torch.dot(s.flatten(), target.flatten())
    sums = s.exp_().sum(-1, keepdim=True)
    return sums.log().sum() - agreement, s, sums, top


class FromLogits(torch.autograd.Function):
    """The loss of logits (V * B, O) that exist. Kept for the backward: they themselves and a normaliser per row."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, center: Tensor, make: MakeTargets, temp: float) -> Tensor:
        targets = make(teacher, center)
        logits = student.reshape(-1, teacher.shape[1], student.shape[-1])
        log_norm = logits.new_empty((*logits.shape[:2], 1), dtype=targets.dtype)
        loss = logits.new_zeros((), dtype=targets.dtype)
        for rows, v, share, target in targets.of_views(len(logits)):
            wide = logits[v, rows].to(targets.dtype)
            entropies, _, sums, top = exponentials(wide, temp, target)
            log_norm[v, rows] = top + sums.log()
            loss.add_(entropies, alpha=share)
        ctx.save_for_backward(student, teacher, center, log_norm)
        ctx.make, ctx.temp = make, temp
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, center, log_norm = ctx.saved_tensors
        targets, temp = ctx.make(teacher, center), ctx.temp
        logits = student.reshape(-1, teacher.shape[1], student.shape[-1])
        grad = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        for rows, v, share, target in targets.of_views(len(logits)):
            p = torch.add(-log_norm[v, rows], logits[v, rows].to(targets.dtype), alpha=1 / temp).exp_()
            torch.mul(p.sub_(target), g * (share / temp), out=grad[v, rows])
        return grad.flatten(0, 1), None, None, None, None


class Fused(torch.autograd.Function):
    """The loss of logits that are a product, made block by block; the gradients are made beside it."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        weight: Tensor,
        teacher: Tensor,
        center: Tensor,
        make: MakeTargets,
        temp: float,
        dtype: torch.dtype,
    ) -> Tensor:
        """Multiply `student` (V * B, D) with `weight` (O, D) in `dtype`; sums and gradients are in the targets'."""
        targets = make(teacher, center)
        x, low = student.reshape(-1, teacher.shape[1], student.shape[-1]), weight.to(dtype)
        shares = targets.shares(len(x))
        # Gradients are multiplied by the last view's share at the end: in fp16 it could underflow before.
        relative = torch.ones((len(x), 1, 1), dtype=targets.dtype, device=x.device)
        relative[:2] *= shares[0] / shares[-1]
        loss = x.new_zeros((), dtype=targets.dtype)
        by_x, by_weight = (
            torch.zeros(t.shape, dtype=targets.dtype, device=t.device) if needed else None
            for t, needed in zip((x, weight), ctx.needs_input_grad, strict=False)
        )
        for rows in targets.blocks(len(x)):
            block = x[:, rows]
            logits = (block.to(dtype).flatten(0, 1) @ low.T).to(targets.dtype).view(*block.shape[:2], -1)
            target = targets.block(rows)
            for v, share in enumerate(shares):
                entropies, s, sums, _ = exponentials(logits[v], temp, target[min(v, 2)])
                loss.add_(entropies, alpha=share)
                torch.sub(s.div_(sums), target[min(v, 2)], out=logits[v])
            residual = logits.flatten(0, 1).to(dtype)
            if by_x is not None:
                by_x[:, rows] = (residual @ low).view_as(block)
            if by_weight is not None:
                _add_product(by_weight, residual.T, (block * relative).flatten(0, 1).to(dtype))
        if by_x is not None:
            by_x = by_x.mul_(relative * (shares[-1] / temp)).flatten(0, 1)
        if by_weight is not None:
            by_weight.mul_(shares[-1] / temp)
        ctx.save_for_backward(by_x, by_weight)
        ctx.dtypes = student.dtype, weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if t is None else (t * g).to(dtype) for t, dtype in pairs), None, None, None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `total`, whose dtype may be wider."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
