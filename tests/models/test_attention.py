"""Attention in a ResNet: the blocks against loops over positions, where they go, and all that timm's networks offer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models._manipulate import group_parameters
from torch import nn

import reidzoo
from reidzoo.errors import ConfigError
from reidzoo.models.attention import ATTENTION, USAM, NonLocal, add_non_local, add_usam
from reidzoo.models.heads import ReIDModel, create_head
from reidzoo.weights import save_model


def shaken(module: nn.Module) -> Any:
    """In evaluation mode, with batch norms that do something."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                assert isinstance(tensor, torch.Tensor)
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return module.eval()


def normed(value: np.ndarray, norm: Any) -> np.ndarray:
    """Batch norm of (C, ...) in evaluation mode."""
    mean, var, weight, bias = (
        t.detach().double().numpy().reshape(-1, *[1] * (value.ndim - 1))
        for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (value - mean) / np.sqrt(var + norm.eps) * weight + bias


def test_non_local_by_hand() -> None:
    """Position by position: what all others say, weighed by dot products, over their number."""
    torch.manual_seed(0)
    block, x = shaken(NonLocal(6)), torch.randn(2, 6, 4, 3)
    weights = {
        name: getattr(block, name).weight.detach().double().numpy()[..., 0, 0] for name in ("theta", "phi", "g", "out")
    }
    bias = {name: getattr(block, name).bias.detach().double().numpy() for name in ("theta", "phi", "g")}
    expected = np.empty((2, 6, 12))
    for b in range(2):
        at = x[b].double().numpy().reshape(6, 12).T
        theta, phi, g = ([weights[n] @ row + bias[n] for row in at] for n in ("theta", "phi", "g"))
        y = [sum((theta[i] @ phi[j]) / 12 * g[j] for j in range(12)) for i in range(12)]
        expected[b] = at.T + normed(np.stack([weights["out"] @ row for row in y], 1), block.norm)
    np.testing.assert_allclose(block(x).detach().reshape(2, 6, 12), expected, atol=1e-5)


def test_usam_by_hand() -> None:
    """Nine times a position's sum of channels less those of the 3x3 around it; nothing at the border."""
    torch.manual_seed(0)
    block, x = shaken(USAM()), torch.randn(2, 5, 6, 4)
    expected = x.double().numpy().copy()
    for b in range(2):
        total = x[b].double().numpy().sum(0)
        for i in range(1, 5):
            for j in range(1, 3):
                stands_out = 9 * total[i, j] - total[i - 1 : i + 2, j - 1 : j + 2].sum()
                a = float(normed(np.array([stands_out]), block.norm)[0])
                expected[b, :, i, j] *= 1 + (a if a > 0 else 0.1 * a)
    np.testing.assert_allclose(block(x).detach(), expected, atol=1e-4)


def names(network: Any, stage: str) -> str:
    return " ".join(name for name, _ in getattr(network, stage).named_children())


@pytest.mark.parametrize(
    ("model", "layer2", "layer3"),
    [
        ("timm/resnet50", "0 1 2 2_nonlocal 3 3_nonlocal", "0 1 2 3 3_nonlocal 4 4_nonlocal 5 5_nonlocal"),
        ("resnet18_ibn", "0 0_nonlocal 1 1_nonlocal", "0 0_nonlocal 1 1_nonlocal"),
    ],
)
def test_places(model: str, layer2: str, layer3: str) -> None:
    with torch.device("meta"):
        network: Any = reidzoo.create_model(model)
        before = list(network.state_dict())
        for _ in range(2):  # the second time nothing is left to do
            add_non_local(network)
            add_usam(network)
    assert (names(network, "layer2"), names(network, "layer3")) == (layer2, layer3)
    assert (names(network, "layer1").split()[-1][1:], names(network, "layer4")[-1].isdigit()) == ("_usam", True)
    assert sum(isinstance(m, USAM) for m in network.modules()) == 2
    assert isinstance(network.maxpool[0], USAM)
    # The tensors that were there are found under their names, and learn at the rate of the layer that they were in.
    assert [key for key in network.state_dict() if key in before] == before
    groups = group_parameters(network, network.group_matcher(), reverse=True)
    for name, layer in groups.items():
        place = name.split("_nonlocal")[0].split("_usam")[0]
        expected = groups["conv1.weight"] if place.startswith("maxpool") else groups.get(f"{place}.conv1.weight", layer)
        assert layer == expected, name


def test_non_local_starts_as_if_it_were_not_there() -> None:
    torch.manual_seed(0)
    network, x = reidzoo.create_model("resnet18"), torch.randn(3, 3, 64, 32)
    plain = network(x)
    add_non_local(network)
    assert torch.equal(network(x), plain)
    network(x).square().sum().backward()
    assert all(m.norm.weight.grad.abs().sum() > 0 for m in network.modules() if isinstance(m, NonLocal))


def test_maps_and_checkpointing() -> None:
    """What `forward_intermediates` gives is what the stages give; recomputing changes no gradient."""
    torch.manual_seed(0)
    network: Any = shaken(reidzoo.create_model("timm/test_resnet", img_size=(64, 32), usam=True, non_local=True))
    x, seen = torch.randn(2, 3, 64, 32), []
    for i in (1, 2, 3):
        getattr(network, f"layer{i}").register_forward_hook(lambda m, args, out: seen.append(out))
    maps = network.forward_intermediates(x, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps[1:4], seen, strict=True))
    gradients = []
    for enable in (False, True):
        network.set_grad_checkpointing(enable)
        network.zero_grad()
        network.train()(x).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters()})
    assert all(torch.equal(gradients[0][name], g) for name, g in gradients[1].items())
    assert gradients[0]["maxpool.0.norm.weight"].abs() > 0


@pytest.mark.parametrize("option", ATTENTION)
def test_a_file_says_that_it_has_it(option: str, tmp_path: Path) -> None:
    """Whatever the head is, and for the maps as for the features."""
    torch.manual_seed(0)
    backbone: Any = reidzoo.create_model("timm/test_resnet", img_size=(64, 32))
    ATTENTION[option](backbone)
    model = shaken(ReIDModel(backbone, create_head("linear", backbone.embed_dim, 3)))
    save_model(model, tmp_path)
    x = torch.randn(2, 3, 64, 32)
    again: Any = reidzoo.create_model(f"local-dir:{tmp_path}").eval()
    assert again.backbone.reidzoo_kwargs == {option: True}
    assert torch.equal(again(x), model(x))
    maps = reidzoo.create_model(f"local-dir:{tmp_path}", features_only=True).eval()(x)
    assert torch.equal(maps[-1], backbone.forward_features(x))


@pytest.mark.parametrize("option", ATTENTION)
def test_others_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} goes between the stages of a ResNet, and timm/test_vit is none"):
        reidzoo.create_model("timm/test_vit", **{option: True})
    assert reidzoo.create_model("timm/test_vit", **{option: False}) is not None
