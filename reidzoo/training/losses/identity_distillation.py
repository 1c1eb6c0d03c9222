"""Identity-guided self-distillation (Zuo et al., "Cross-video Identity Correlating", NeurIPS 2024, section 3.3)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from reidzoo.training._distributed import all_reduce_sum
from reidzoo.training.losses._distillation import FromLogits, Fused, MakeTargets, SoftTargets

VARIANTS = ("release", "paper")


class IdentityDistillationLoss(nn.Module):
    """DINO's loss, in which images of one person also teach each other.

    H(u, i; v, j) is the cross-entropy between what the teacher says of global view u of image i and what the student
    says of view v of image j. With K images per identity and V views, two of them the teacher's:

    - ``variant="paper"`` averages H over the 2 V K^2 - 2 K pairs of two different views of one identity's images;
    - ``variant="release"`` is the published code: it leaves out u = v also where the images differ, averages over the
      other 2 V - 2 pairs of views, and inside a pair sums over the K (K - 1) pairs of different images, adds the
      average over the K images with themselves, and divides by K (K - 1) + 1.

    With K = 1 both are DINO's loss. Cross-entropy is linear in its target, so either is one cross-entropy per student
    row with a mean of teacher distributions as the target: O(V B) rows of work instead of O(V B K).

    Args:
        out_dim: O, width of the logits.
        num_views: V, student views per image; the first two are the teacher's.
        teacher_temp: temperature that sharpens the centred teacher logits.
        student_temp: temperature of the student logits.
        center_momentum: momentum of the running mean of the teacher logits.
        variant: ``release`` or ``paper``.

    Attributes:
        center: (1, O) float32 buffer; the centre that the next call subtracts.

    Raises:
        ValueError: fewer than two views, or no such variant.
    """

    center: Tensor

    def __init__(
        self,
        out_dim: int,
        num_views: int,
        teacher_temp: float = 0.04,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        *,
        variant: str = "release",
    ) -> None:
        super().__init__()
        if num_views < 2:
            raise ValueError(f"num_views is {num_views}; the two global views are the least there can be")
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}, expected one of {', '.join(VARIANTS)}")
        self.num_views, self.variant = num_views, variant
        self.teacher_temp, self.student_temp, self.center_momentum = teacher_temp, student_temp, center_momentum
        self.register_buffer("center", torch.zeros(1, out_dim))

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, num_instances: int, update_center: bool = True
    ) -> Tensor:
        """Return the loss and move the centre.

        Args:
            student_logits: (V * B, O), view-major; inside a view, K consecutive rows share an identity.
            teacher_logits: (2 * B, O), the same order; no gradient flows into them.
            num_instances: K, which divides B.
            update_center: False leaves the centre alone (micro-batches, validation).

        Returns:
            Scalar float32, or float64 where an input is.

        Raises:
            ValueError: the rows do not fit `num_views`, or K does not divide B.
        """
        teacher = self._checked(student_logits, teacher_logits, num_instances, "student_logits")
        make = self._targets(num_instances, student_logits, teacher)
        with torch.autocast(teacher.device.type, enabled=False):
            loss: Tensor = FromLogits.apply(student_logits, teacher, self.center.clone(), make, self.student_temp)
        if update_center:
            self.update_center(teacher_logits)
        return loss

    def fused(
        self,
        student: Tensor,
        weight: Tensor,
        teacher_logits: Tensor,
        *,
        num_instances: int,
        update_center: bool = True,
    ) -> Tensor:
        """Return ``forward(student @ weight.T, ...)`` without ever holding that product: it is made in blocks of rows.

        Both gradients are computed with the value, so a backward costs next to nothing. Under autocast the products are
        made in its precision, everything else is float32.

        Args:
            student: (V * B, D), what the head's last layer gets, view-major.
            weight: (O, D), that layer's weight.
            teacher_logits: as in `forward`.
            num_instances: as in `forward`.
            update_center: as in `forward`.

        Returns:
            Scalar float32, or float64 where an input is.

        Raises:
            ValueError: the rows do not fit `num_views`, or K does not divide B.
        """
        teacher = self._checked(student, teacher_logits, num_instances, "student")
        device = student.device.type
        dtype = torch.promote_types(student.dtype, weight.dtype)
        if dtype != torch.float64 and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        make = self._targets(num_instances, student, teacher)
        with torch.autocast(device, enabled=False):
            loss: Tensor = Fused.apply(student, weight, teacher, self.center, make, self.student_temp, dtype)
        if update_center:
            self.update_center(teacher_logits)
        return loss

    @torch.no_grad()
    def entropy(self, teacher_logits: Tensor) -> Tensor:
        """Return the mean entropy in nats of the centred, sharpened teacher (2 * B, O): log O at most, at least 0."""
        teacher = teacher_logits.reshape(2, -1, teacher_logits.shape[-1])
        with torch.autocast(teacher.device.type, enabled=False):
            return self._targets(1, teacher)(teacher, self.center).entropy()

    @torch.no_grad()
    def update_center(self, teacher_logits: Tensor) -> None:
        """Move the centre towards the mean of `teacher_logits` (N, O) over all ranks (N equal on each)."""
        total = teacher_logits.sum(0, keepdim=True, dtype=self.center.dtype)
        total, ranks = all_reduce_sum(total)
        self.center.lerp_(total / (teacher_logits.shape[0] * ranks), 1 - self.center_momentum)

    def _targets(self, num_instances: int, *logits: Tensor) -> MakeTargets:
        dtype = torch.float32
        for x in logits:
            dtype = torch.promote_types(dtype, x.dtype)
        return partial(SoftTargets, temp=self.teacher_temp, k=num_instances, variant=self.variant, dtype=dtype)

    def _checked(self, student: Tensor, teacher: Tensor, k: int, name: str) -> Tensor:
        """Return the teacher's logits as (2, B, O), detached."""
        rows, batch = len(teacher), len(teacher) // 2
        if k < 1 or rows % (2 * k):
            raise ValueError(f"teacher_logits has {rows} rows, which is not 2 views of whole groups of {k}")
        if len(student) != self.num_views * batch:
            raise ValueError(
                f"{name} has {len(student)} rows; {self.num_views} views of {batch} images are {self.num_views * batch}"
            )
        return teacher.detach().reshape(2, batch, -1)
