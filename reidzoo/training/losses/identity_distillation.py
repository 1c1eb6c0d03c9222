"""Identity-guided self-distillation (Zuo et al., "Cross-video Identity Correlating", NeurIPS 2024, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reidzoo.training._distributed import all_reduce_sum


class IdentityDistillationLoss(nn.Module):
    """DINO's loss, in which images of one person also teach each other.

    For a teacher view u and a student view v != u the published code averages, over the B images, the cross-entropy of
    an image with itself, adds the averages over the P = B / K identities of each ordered pair of different images,
    and divides by K (K - 1) + 1. Cross-entropy is linear in its target, so this is one cross-entropy per student row
    with the target

        t_b = (q_b + K * sum of q over the other images of b's identity) / (K (K - 1) + 1),

    a distribution again: O(V B) rows of work instead of O(V B K). With K = 1 it is DINO's loss.

    Args:
        out_dim: O, width of the logits.
        num_views: V, student views per image; the first two are the teacher's.
        teacher_temp: temperature that sharpens the centred teacher logits.
        student_temp: temperature of the student logits.
        center_momentum: momentum of the running mean of the teacher logits.

    Attributes:
        center: (1, O) float32 buffer; the centre that the next call subtracts.
    """

    center: Tensor

    def __init__(
        self,
        out_dim: int,
        num_views: int,
        teacher_temp: float = 0.04,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        if num_views < 2:
            raise ValueError(f"num_views is {num_views}; the two global views are the least there can be")
        self.num_views = num_views
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
            Scalar float32.

        Raises:
            ValueError: the rows do not fit `num_views`, or K does not divide B.
        """
        targets = self.targets(teacher_logits.detach(), num_instances)
        batch = targets.shape[1]
        if student_logits.shape[0] != self.num_views * batch:
            raise ValueError(
                f"student_logits has {student_logits.shape[0]} rows; {self.num_views} views of {batch} images are "
                f"{self.num_views * batch}"
            )
        scaled = student_logits.to(targets.dtype).view(self.num_views, batch, -1) / self.student_temp
        # A global view learns from the other global view, a local view from both.
        of_view = [targets[1], targets[0]] + [targets.sum(0)] * (self.num_views > 2)
        agreement = (of_view[0] * scaled[0]).sum() + (of_view[1] * scaled[1]).sum()
        if self.num_views > 2:
            agreement = agreement + (of_view[2] * scaled[2:].sum(0)).sum()
        log_norm = scaled.logsumexp(-1)
        loss = (log_norm[:2].sum() + 2 * log_norm[2:].sum() - agreement) / (batch * (2 * self.num_views - 2))
        if update_center:
            self.update_center(teacher_logits)
        return loss

    def targets(self, teacher_logits: Tensor, num_instances: int) -> Tensor:
        """Return what each image's students should predict: (2, B, O), rows sum to 1."""
        rows, k = teacher_logits.shape[0], num_instances
        if rows % (2 * k):
            raise ValueError(f"teacher_logits has {rows} rows, which is not 2 views of whole groups of {k}")
        wide = teacher_logits.to(torch.promote_types(teacher_logits.dtype, torch.float32))
        q = ((wide - self.center) / self.teacher_temp).softmax(-1)
        q = q.view(2, rows // (2 * k), k, -1)
        partners = q.sum(2, keepdim=True) - q
        return ((q + k * partners) / (k * (k - 1) + 1)).view(2, rows // 2, -1)

    @torch.no_grad()
    def update_center(self, teacher_logits: Tensor) -> None:
        """Move the centre towards the mean of `teacher_logits` (N, O) over all ranks (N equal on each)."""
        total = teacher_logits.to(self.center.dtype).sum(0, keepdim=True)
        total, ranks = all_reduce_sum(total)
        self.center.lerp_(total / (teacher_logits.shape[0] * ranks), 1 - self.center_momentum)
