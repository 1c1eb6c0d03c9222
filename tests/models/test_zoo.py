"""All 32 backbones of ReIDZoo: what they say of themselves; one of each family: the module contract."""

from __future__ import annotations

import pytest
import torch

import reidzoo


@pytest.mark.parametrize("name", reidzoo.list_models(tag="reidzoo"))
def test_builds_and_runs(name, manifest):
    """Shapes only: what they compute at these sizes and others is in test_golden.py."""
    spec = reidzoo.model_info(name)
    with torch.device("meta"):
        model = reidzoo.create_model(name)
    assert model.training
    assert model.eval() is model
    assert (model.embed_dim, model.num_features, model.reidzoo_name) == (spec.embed_dim, spec.embed_dim, name)
    assert sum(p.numel() for p in model.parameters()) == manifest["models"][name]["num_params"]
    cfg = model.pretrained_cfg
    assert (cfg["input_size"], cfg["mean"], cfg["std"]) == (spec.input_size, spec.mean, spec.std)
    convs = [cfg["first_conv"]] if isinstance(cfg["first_conv"], str) else cfg["first_conv"]
    assert all(model.get_submodule(conv).in_channels == 3 for conv in convs)
    with torch.inference_mode():
        assert model(torch.rand(1, 3, *spec.input_size[1:], device="meta")).shape == (1, spec.embed_dim)


SMALLEST = (
    "resnet18",
    "resnet18_ibn",
    "vit_tiny",
    "swin_tiny",
    "convnext_tiny",
    "edgenext_x_small",
    "ghostnet_0_5",
    "repvit_m0_9",
    "fastvit_s12",
    "volo_d1",
    "transreid_ssl_vit_small",
    "pass_vit_small",
    "solider_swin_tiny",
)


@pytest.mark.parametrize("name", SMALLEST)
def test_trains_with_gradients_everywhere_and_checkpointing(name):
    """Two small sizes; with gradient checkpointing the gradients are the same; timm's parameter groups cover all."""
    torch.manual_seed(0)
    model = reidzoo.create_model(name, drop_path_rate=0.0) if "swin" in name else reidzoo.create_model(name)
    assert torch.isfinite(model(torch.rand(2, 3, 192, 96))).all()
    x, seen = torch.rand(4, 3, 64, 32), []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        model(x).square().sum().backward()
        grads = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
        assert not [key for key, grad in grads.items() if grad is None]
        seen.append(torch.cat([g.flatten() for g in grads.values()]))
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-3, atol=1e-4 * float(seen[0].abs().max()))

    from timm.models._manipulate import group_parameters

    groups = group_parameters(model, model.group_matcher(coarse=False))
    assert {key for members in groups.values() for key in members} == {key for key, _ in model.named_parameters()}
    assert bool(set(dict(model.named_parameters())) - set(grads)) == (name == "solider_swin_tiny")


@pytest.mark.parametrize("name", SMALLEST)
def test_intermediates_and_layer_info(name):
    model = reidzoo.create_model(name).eval()
    with torch.inference_mode():
        final, maps = model.forward_intermediates(torch.rand(1, 3, 128, 64))
    assert torch.isfinite(final).all()
    for info, fmap in zip(model.feature_info, maps, strict=True):
        assert tuple(fmap.shape[1:]) == (info["num_chs"], 128 // info["reduction"], 64 // info["reduction"])
