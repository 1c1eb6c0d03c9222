"""Parity for other weights and other images than the golden ones.

The expected outputs come from definitions that share nothing with ours: torchvision's ResNets, timm's plain models
behind timm's own renaming, and RepViT and ViT written out over the official tensor names.
"""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from timm.models import convnext, edgenext, fastvit, swin_transformer
from torch import Tensor, nn
from torch.nn import functional as F

import reidzoo
from reidzoo.weights import export_official

FILL_SEED, INPUT_SEED = 0x5EED, 17
SIZES = ((128, 64), (192, 96))


class PlainIBN(nn.Module):
    """First half of the channels by instance, second half by batch statistics."""

    def __init__(self, channels):
        super().__init__()
        self.IN, self.BN = nn.InstanceNorm2d(channels // 2, affine=True), nn.BatchNorm2d(channels // 2)

    def forward(self, x):
        first, second = x.chunk(2, dim=1)
        return torch.cat([self.IN(first), self.BN(second)], dim=1)


def resnet(name, state):
    model = getattr(torchvision.models, name.removesuffix("_ibn"))(weights=None)
    model.fc = nn.Identity()
    block = model.layer4[0]
    block.downsample[0].stride = (1, 1)
    (block.conv2 if hasattr(block, "conv3") else block.conv1).stride = (1, 1)
    if name.endswith("_ibn"):
        for layer in (model.layer1, model.layer2, model.layer3):
            for each in layer:
                each.bn1 = PlainIBN(each.bn1.num_features)
    model.load_state_dict(state)
    return model.eval()


def plain_timm(module=None, **options):
    """timm's model of the spec; `module` has timm's own renaming of the layout that the authors released."""

    def build(name, state):
        model = timm.create_model(reidzoo.model_info(name).timm_name, num_classes=0, **options)
        model.load_state_dict(module.checkpoint_filter_fn(dict(state), model) if module else state)
        return model.eval()

    return build


def swin(name, state):
    options = {"img_size": (256, 128), "window_size": 8, "always_partition": True, "strict_img_size": False}
    renamed = {key.replace("norm3.", "norm.") if key.startswith("norm3.") else key: t for key, t in state.items()}
    return plain_timm(swin_transformer, **options)(name, renamed)


def conv_bn(state, prefix, x, **options):
    x = F.conv2d(x, state[f"{prefix}.c.weight"], **options)
    return batch_norm(state, f"{prefix}.bn", x)


def batch_norm(state, prefix, x):
    parts = (state[f"{prefix}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def repvit(name, state):
    def forward(x: Tensor) -> Tensor:
        x = F.gelu(conv_bn(state, "features.0.0", x, stride=2, padding=1))
        x = conv_bn(state, "features.0.2", x, stride=2, padding=1)
        count = 1 + max(int(key.split(".")[1]) for key in state)
        for at in (f"features.{i}" for i in range(1, count)):
            mixer, width = f"{at}.token_mixer", x.shape[1]
            if f"{mixer}.2.c.weight" in state:
                x = conv_bn(state, f"{mixer}.0", x, stride=2, padding=1, groups=width)
                x = conv_bn(state, f"{mixer}.2", x)
            else:
                point = F.conv2d(x, state[f"{mixer}.0.conv1.weight"], state[f"{mixer}.0.conv1.bias"], groups=width)
                wide = conv_bn(state, f"{mixer}.0.conv", x, padding=1, groups=width)
                x = batch_norm(state, f"{mixer}.0.bn", wide + point + x)
            if f"{mixer}.1.conv_reduce.weight" in state:
                gate = x.mean((2, 3), keepdim=True)
                for part, activation in (("conv_reduce", F.relu), ("conv_expand", F.hardsigmoid)):
                    gate = activation(
                        F.conv2d(gate, state[f"{mixer}.1.{part}.weight"], state[f"{mixer}.1.{part}.bias"])
                    )
                x = x * gate
            x = x + conv_bn(state, f"{at}.channel_mixer.m.2", F.gelu(conv_bn(state, f"{at}.channel_mixer.m.0", x)))
        return x.mean((2, 3))

    return forward


def linear(state, prefix, x):
    return F.linear(x, state[f"{prefix}.weight"], state[f"{prefix}.bias"])


def layer_norm(state, prefix, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{prefix}.weight"], state[f"{prefix}.bias"], eps=1e-6)


def vit(resize_by_rule):
    heads = {"vit_tiny": 3, "vit_small": 6, "vit_base": 12}

    def build(name, state):
        def norm(at, x):
            if f"{at}.IN.weight" not in state:
                return batch_norm(state, at, x)
            a, b = x.chunk(2, dim=1)
            a = F.instance_norm(a, weight=state[f"{at}.IN.weight"], bias=state[f"{at}.IN.bias"])
            return torch.cat([a, batch_norm(state, f"{at}.BN", b)], dim=1)

        def forward(x: Tensor) -> Tensor:
            for i, (stride, padding) in ((0, (2, 3)), (3, (1, 1)), (6, (1, 1))):
                x = F.conv2d(x, state[f"patch_embed.conv.{i}.weight"], stride=stride, padding=padding)
                x = F.relu(norm(f"patch_embed.conv.{i + 1}", x))
            x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=8)
            positions = resize_by_rule(state["pos_embed"][:, 1:].reshape(1, 16, 8, -1), tuple(x.shape[2:])).flatten(
                1, 2
            )
            x = x.flatten(2).transpose(1, 2) + positions
            first = state["cls_token"] + state["pos_embed"][:, :1]
            x = torch.cat([first.expand(len(x), -1, -1), x], dim=1)
            for at in (f"blocks.{i}" for i in range(12)):
                qkv = linear(state, f"{at}.attn.qkv", layer_norm(state, f"{at}.norm1", x))
                q, k, v = qkv.unflatten(-1, (3, heads[name], -1)).permute(2, 0, 3, 1, 4)
                weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
                x = x + linear(state, f"{at}.attn.proj", (weights @ v).transpose(1, 2).flatten(2))
                hidden = F.gelu(linear(state, f"{at}.mlp.fc1", layer_norm(state, f"{at}.norm2", x)))
                x = x + linear(state, f"{at}.mlp.fc2", hidden)
            return layer_norm(state, "norm", x)[:, 0]

        return forward

    return build


def volo(resize_by_rule):
    """timm's network, built anew for each size with the positions already resized."""

    def build(name, state):
        def forward(x: Tensor) -> Tensor:
            height, width = x.shape[2:]
            model = timm.create_model(
                reidzoo.model_info(name).timm_name, num_classes=0, img_size=(height, width), use_aux_head=False
            )
            positions = resize_by_rule(state["pos_embed"], (height // 16, width // 16))
            model.load_state_dict({**state, "pos_embed": positions})
            return model.eval()(x)

        return forward

    return build


@pytest.fixture
def definitions(resize_by_rule):
    return {
        "resnet": resnet,
        "resnet_ibn": resnet,
        "vit": vit(resize_by_rule),
        "swin": swin,
        "convnext": plain_timm(convnext),
        "edgenext": plain_timm(edgenext),
        "ghostnet": plain_timm(),
        "repvit": repvit,
        "fastvit": plain_timm(fastvit),
        "volo": volo(resize_by_rule),
    }


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "resnet18_ibn",
        "resnet50_ibn",
        "vit_tiny",
        "swin_tiny",
        "convnext_tiny",
        "edgenext_x_small",
        "edgenext_small",
        "ghostnet_0_5",
        "ghostnet_1_3",
        "repvit_m0_9",
        "repvit_m1_5",
        "fastvit_s12",
        "fastvit_sa12",
        "volo_d1",
    ],
)
def test_other_weights_and_images(
    name, definitions, fill, images, official_container, official_state, manifest, scratch, undrawn
):
    """And the same weights through our own file and back give the same outputs bit for bit."""
    spec = reidzoo.model_info(name)
    state = official_state(name, fill, FILL_SEED)
    path = scratch / "official.pth"
    torch.save(official_container(state, manifest["models"][name]["checkpoint_prefix"], name), path)
    with undrawn():
        model = reidzoo.create_model(name, weights=path).eval()
        again = reidzoo.create_model(name, weights=export_official(model, scratch / "exported.pth")).eval()
        definition = definitions[spec.family](name, state)
    # timm pads Swin's maps after the shift, which is the same only where they are multiples of the window.
    for height, width in ((256, 128), (128, 64)) if spec.family == "swin" else SIZES:
        x = images(2, height, width, INPUT_SEED)
        with torch.inference_mode(), undrawn():
            out, expected = model(x), definition(x)
            assert torch.equal(again(x), out)
        assert float(expected.std()) > 0.1
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-5)
