"""The same numbers from pytorch-metric-learning, where that is installed: ``pip install pytorch-metric-learning``."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from reidzoo.models.heads import CosineClassifier
from reidzoo.training.losses import MARGIN, PAIRWISE, ProxyLoss, cross_entropy

pml = pytest.importorskip("pytorch_metric_learning.losses")
miners = pytest.importorskip("pytorch_metric_learning.miners")
PIDS = torch.arange(5).repeat_interleave(3)


def features() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(5, 8, generator=g)[PIDS] + torch.randn(15, 8, generator=g))


def test_pairwise() -> None:
    x = features()
    for ours, theirs in {
        "triplet_all": pml.TripletMarginLoss(margin=0.3),
        "contrastive": pml.ContrastiveLoss(),
        "lifted": pml.GeneralizedLiftedStructureLoss(),
    }.items():
        torch.testing.assert_close(PAIRWISE[ours](x, PIDS), theirs(x, PIDS), rtol=1e-4, atol=1e-5)


def test_mined_triplet() -> None:
    x = features()
    theirs = pml.TripletMarginLoss(margin=0.3)(x, PIDS, miners.MultiSimilarityMiner()(x, PIDS))
    torch.testing.assert_close(PAIRWISE["triplet_mined"](x, PIDS), theirs, rtol=1e-4, atol=1e-5)


def test_batch_hard_triplet() -> None:
    x = features()
    theirs = pml.TripletMarginLoss(margin=0.3)(x, PIDS, miners.BatchHardMiner()(x, PIDS))
    ours = PAIRWISE["triplet"](x, PIDS, margin=0.3)
    torch.testing.assert_close(ours, theirs * _share_above_zero(x), rtol=1e-4, atol=1e-5)


def _share_above_zero(x: torch.Tensor) -> torch.Tensor:
    """Its mean is over the anchors that cost something, ours over all."""
    distances = torch.cdist(x, x)
    same = PIDS[:, None] == PIDS
    gap = (distances * same).amax(1) - distances.masked_fill(same, 9).amin(1)
    return (gap + 0.3 > 0).float().mean()


def test_margins() -> None:
    x = features()
    for ours, settings, theirs in (
        ("arcface", {}, pml.ArcFaceLoss(5, 8, margin=math.degrees(0.5))),
        ("cosface", {}, pml.CosFaceLoss(5, 8)),
        ("sphereface", {}, pml.SphereFaceLoss(5, 8)),
    ):
        classifier = CosineClassifier(8, 5)
        classifier.weight.data = theirs.W.detach().T.contiguous()
        logits = MARGIN[ours](classifier(x), PIDS, **settings)
        torch.testing.assert_close(cross_entropy(logits, PIDS), theirs(x, PIDS), rtol=1e-4, atol=1e-5)


def test_proxies() -> None:
    """With the margins and scales that layumi's baseline gives them."""
    x = features()
    for ours, theirs in (
        ("arcface", pml.ArcFaceLoss(5, 8, margin=28.6, scale=64)),
        ("cosface", pml.CosFaceLoss(5, 8, margin=0.35, scale=64)),
        ("sphereface", pml.SphereFaceLoss(5, 8, margin=4, scale=1)),
    ):
        proxies = ProxyLoss(ours, 5, 8)
        proxies.weight.data = theirs.W.detach().T.contiguous()
        torch.testing.assert_close(proxies(x, PIDS), theirs(F.normalize(x), PIDS), rtol=1e-4, atol=1e-5)
