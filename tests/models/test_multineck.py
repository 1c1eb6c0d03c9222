"""PASS' four necks: against the table of the specification, and in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reidzoo
from reidzoo.errors import ConfigError
from reidzoo.models.heads import create_head
from reidzoo.training.configs import TransReIDConfig

TINY: dict[str, Any] = {"depth": 1, "embed_dim": 16, "num_heads": 2}


def passed(fusion: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return reidzoo.create_model(
        "pass_vit_small", head="multi_neck", num_classes=5, img_size=(64, 32), feat_fusion=fusion, **TINY, **options
    )


def fused(tokens: np.ndarray, fusion: str) -> np.ndarray:
    """``[g ; (l1+l2+l3)/3]``, or ``(g + (l1+l2+l3)/3)/2``, of (B, 4, D)."""
    g, parts = tokens[:, 0], (tokens[:, 1] + tokens[:, 2] + tokens[:, 3]) / 3
    return np.concatenate([g, parts], 1) if fusion == "cat" else (g + parts) / 2


@pytest.mark.parametrize("fusion", ["cat", "mean"])
def test_by_hand(fusion: str) -> None:
    model, x = passed(fusion), torch.randn(6, 3, 64, 32)
    for norm in model.head.bottleneck:
        torch.nn.init.normal_(norm.weight)
    tokens = model.backbone.forward_features(x).detach().double().numpy()[:, :4]
    scales = torch.stack([norm.weight for norm in model.head.bottleneck]).detach().double().numpy()
    normed = (tokens - tokens.mean(0)) / np.sqrt(tokens.var(0) + 1e-5) * scales
    out = model.train()(x)
    np.testing.assert_allclose(out.features[0].detach(), fused(tokens, fusion), atol=1e-5)
    classes = model.head.classifier.weight.detach().double().numpy()
    np.testing.assert_allclose(out.logits[0].detach(), fused(normed, fusion) @ classes.T, atol=1e-5)
    assert model.embed_dim == classes.shape[1] == (32 if fusion == "cat" else 16)
    assert torch.equal(model.eval()(x), model.backbone(x))  # before the necks, as TransReID evaluates
    model.head.options["neck_feature"] = "after"
    moved = [(n.running_mean.numpy(), n.running_var.numpy()) for n in model.head.bottleneck]
    rested = [(tokens[:, i] - m) / np.sqrt(v + 1e-5) * scales[i] for i, (m, v) in enumerate(moved)]
    np.testing.assert_allclose(model(x).detach(), fused(np.stack(rested, 1), fusion), atol=1e-5)


def test_it_starts_as_a_bnneck_and_keeps_its_necks() -> None:
    model = passed("cat")
    kept = list(model.head.bottleneck)
    model.head.attach(model.backbone)
    assert all(a is b for a, b in zip(kept, model.head.bottleneck, strict=True))
    assert len(kept) == 4
    assert not any(norm.bias.requires_grad or norm.bias.any() for norm in kept)
    assert float(model.head.classifier.weight.detach().abs().max()) < 0.01


@pytest.mark.parametrize("name", ["vit_tiny", "timm/test_resnet"])
def test_others_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"the feature of {name} is not made of such. Take pass_vit_small"):
        reidzoo.create_model(name, head="multi_neck", num_classes=5)
    pooled: Tensor | Any = reidzoo.create_model("pass_vit_small", global_pool="avg", **TINY)
    with pytest.raises(ConfigError, match="the feature of pass_vit_small is not made of such"):
        create_head("multi_neck", 16, 5).attach(pooled)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"pool": "gem"}, "multi_neck has features of its own: leave pool out"),
        ({"feat_dim": 8}, "multi_neck has features of its own: leave feat_dim out"),
        ({"jpm": True}, "jpm and multi_neck are of different ViTs"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        TransReIDConfig(multi_neck=True, **settings)


def test_a_run_and_its_file(tmp_path: Path) -> None:
    """At 96x32, where the positions move; the mean of both, whose features are those of the file."""
    data = reidzoo.data.write_synthetic(tmp_path / "people", identities=8, cameras=2, images=3, size=(96, 32))
    model: Any = reidzoo.create_model("pass_vit_small", feat_fusion="mean", **TINY)
    result: Any = reidzoo.finetune(
        model, f"synthetic:{data}", output_dir=tmp_path / "run", multi_neck=True, img_size=(96, 32), epochs=10, lr=0.05,
        warmup_epochs=1, batch_size=8, num_instances=2, padding=2, drop_path=0.1, num_workers=0, device="cpu",
    )  # fmt: skip
    assert result.history[-1]["loss"] < 0.9 * result.history[0]["loss"]
    again: Any = reidzoo.create_model(f"local-dir:{tmp_path / 'run'}").eval()
    x = torch.randn(2, 3, 96, 32)
    assert torch.equal(again(x), result.model(x))
    assert (again.head.name, again.embed_dim, again.backbone.pos_embed.shape) == ("multi_neck", 16, (1, 12, 16))
