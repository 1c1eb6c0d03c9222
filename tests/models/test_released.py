"""The backbones of the other releases: they build and run, and all layouts of their files load."""

from __future__ import annotations

import zlib

import pytest
import timm
import torch
import torchvision
from torch import nn

import reidzoo
from reidzoo.errors import CheckpointError
from reidzoo.models import from_official, to_official

OTHERS = [n for n in reidzoo.list_models() if reidzoo.model_info(n).release != "reidzoo"]
SMALL = ("transreid_ssl_vit_small", "transreid_ssl_vit_small_ics", "pass_vit_small", "solider_swin_tiny")
SIZES = ((256, 128), (128, 64), (384, 128))


def on_meta(name, **options):
    with torch.device("meta"):
        return reidzoo.create_model(name, **options)


def official_shapes(name):
    model = on_meta(name)
    return {key: tuple(t.shape) for key, t in to_official(model.state_dict(), model).items()}


def filled(name, fill, **options):
    """The backbone with synthetic values under the official names, and these values."""
    model = reidzoo.create_model(name, **options).eval()
    state = {
        key: fill(key, tuple(t.shape)) if t.is_floating_point() else t.clone()
        for key, t in to_official(model.state_dict(), model).items()
    }
    model.load_state_dict(from_official(state, model))
    return model, state


# --- all of them


@pytest.mark.parametrize("name", OTHERS)
def test_builds_and_runs(name):
    """The large ones without memory: shapes only."""
    spec = reidzoo.model_info(name)
    device = "cpu" if name in SMALL else "meta"
    with torch.device(device):
        model = reidzoo.create_model(name).eval()
        assert (model.embed_dim, model.num_features, model.reidzoo_name) == (spec.embed_dim, spec.embed_dim, name)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(spec.params_m, abs=0.005)
        cfg = model.pretrained_cfg
        assert (cfg["input_size"], cfg["mean"], cfg["std"]) == (spec.input_size, spec.mean, spec.std)
        assert model.get_submodule(cfg["first_conv"]).in_channels == 3
        has_norm = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
        assert ("batchnorm" in spec.tags) == has_norm
        for height, width in SIZES:
            with torch.inference_mode():
                out = model(torch.rand(1, 3, height, width))
            assert out.shape == (1, spec.embed_dim)
            assert device == "meta" or torch.isfinite(out).all()


@pytest.mark.parametrize("name", SMALL)
def test_round_trip_is_bit_exact(name, fill):
    model, state = filled(name, fill)
    back = to_official(model.state_dict(), model)
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)
    ours = model.state_dict()
    again = from_official(back, model)
    assert all(torch.equal(again[key], ours[key]) for key in ours)
    assert set(again) == set(ours)


def test_layouts_are_those_of_the_architectures():
    """ICS is CION's ViT, the plain one timm's, LUPerson's torchvision's; the others are written out below."""
    for ics, cion in (("transreid_ssl_vit_small_ics", "vit_small"), ("transreid_ssl_vit_base_ics", "vit_base")):
        assert official_shapes(ics) == official_shapes(cion)
    for depth in (50, 101, 152):
        with torch.device("meta"):
            reference = getattr(torchvision.models, f"resnet{depth}")().state_dict()
        expected = {key: tuple(t.shape) for key, t in reference.items() if not key.startswith("fc.")}
        assert official_shapes(f"luperson_resnet{depth}") == official_shapes(f"luperson_nl_resnet{depth}") == expected
    with torch.device("meta"):
        vit = {
            k: tuple(t.shape) for k, t in timm.create_model("vit_small_patch16_224", num_classes=0).state_dict().items()
        }
    assert official_shapes("transreid_ssl_vit_small") == {**vit, "pos_embed": (1, 129, 384)}
    part = {f"{key}": (1, 1, 384) for i in "123" for key in (f"part_token{i}", f"part{i}_pos")}
    assert official_shapes("pass_vit_small") == {**vit, "pos_embed": (1, 128, 384), "cls_pos": (1, 1, 384), **part}


@pytest.mark.parametrize(("size", "width", "depths"), [("tiny", 96, (2, 2, 6, 2)), ("base", 128, (2, 2, 18, 2))])
def test_layout_of_solider(size, width, depths):
    """Every name and shape, from the description of mmcv's scheme."""
    heads = width // 32
    expected = {"patch_embed.projection.weight": (width, 3, 4, 4)}
    expected |= {f"patch_embed.{key}": (width,) for key in ("projection.bias", "norm.weight", "norm.bias")}
    for i, depth in enumerate(depths):
        c, following = width << i, width << min(i + 1, 3)
        for j in range(depth):
            at = f"stages.{i}.blocks.{j}."
            expected |= {at + f"{norm}.{leaf}": (c,) for norm in ("norm1", "norm2") for leaf in ("weight", "bias")}
            msa = at + "attn.w_msa."
            expected |= {msa + "qkv.weight": (3 * c, c), msa + "qkv.bias": (3 * c,)}
            expected |= {msa + "proj.weight": (c, c), msa + "proj.bias": (c,)}
            expected |= {msa + "relative_position_bias_table": (169, heads << i)}
            expected |= {msa + "relative_position_index": (49, 49)}
            expected |= {at + "ffn.layers.0.0.weight": (4 * c, c), at + "ffn.layers.0.0.bias": (4 * c,)}
            expected |= {at + "ffn.layers.1.weight": (c, 4 * c), at + "ffn.layers.1.bias": (c,)}
        if i < 3:
            at = f"stages.{i}.downsample."
            expected |= {
                at + "norm.weight": (4 * c,),
                at + "norm.bias": (4 * c,),
                at + "reduction.weight": (2 * c, 4 * c),
            }
        expected |= {f"norm{i}.weight": (c,), f"norm{i}.bias": (c,)}
        for name in ("semantic_embed_w", "semantic_embed_b"):
            expected |= {f"{name}.{i}.weight": (following, 2), f"{name}.{i}.bias": (following,)}
    assert official_shapes(f"solider_swin_{size}") == expected


# --- files


def constant(key, shape):
    """A tensor of one value that names its key; expanded, so that its file is small."""
    return torch.tensor(zlib.crc32(key.encode()) / 2**32).expand(shape)


def state_of(name):
    """Official tensors with a value each; the constants among them as they are."""
    model = on_meta(name)
    official = to_official(model.state_dict(), model)
    state = {key: constant(key, tuple(t.shape)) if t.is_floating_point() else t for key, t in official.items()}
    return {key: torch.zeros(t.shape, dtype=t.dtype) if t.is_meta else t for key, t in state.items()}


def dino_head(prefix="head.", names=("mlp.0", "mlp.2", "mlp.4")):
    return {f"{prefix}{n}.weight": torch.ones(2, 2) for n in names} | {f"{prefix}last_layer.weight_g": torch.ones(2, 1)}


def prefixed(prefix, state):
    return {prefix + key: t for key, t in state.items()}


def pass_heads(prefix):
    parts = ("cls", "pt1", "pt2", "pt3")
    heads = {f"{prefix}head.mlp_{p}.0.weight": torch.ones(2, 2) for p in parts}
    return heads | {f"{prefix}head.last_layer_{p}.weight_v": torch.ones(2, 2) for p in parts}


def moco(state):
    """A training file of LUPerson: the query encoder counts, not its moving average."""
    other = {key: torch.zeros(()).expand(t.shape) for key, t in state.items()}
    return {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": prefixed("module.encoder_q.", state)
        | prefixed("module.encoder_k.", other)
        | {f"module.encoder_{e}.fc.{i}.weight": torch.ones(2, 2) for e in "qk" for i in (0, 2)}
        | {"module.queue": torch.ones(2, 2), "module.queue_ptr": torch.zeros(1, dtype=torch.long)},
        "optimizer": {"state": {}, "param_groups": []},
    }


def moco_nl(state):
    """One of LUPerson-NL: classifiers in the encoders, prototypes and identities beside the queue."""
    file = moco(state)
    extra = ("embed_fc", "classifier", "fc1", "fc2")
    file["state_dict"] |= {f"module.encoder_{e}.{x}.weight": torch.ones(2, 2) for e in "qk" for x in extra}
    file["state_dict"] |= {"module.prototypes": torch.ones(2, 2), "module.queue_id": torch.zeros(2)}
    return file


def without_counters(state):
    return {key: t for key, t in state.items() if not key.endswith("num_batches_tracked")}


LAYOUTS = {
    "transreid-ssl old patches": (
        "transreid_ssl_vit_small",
        lambda s: {k: t.reshape(384, 768) if k == "patch_embed.proj.weight" else t for k, t in s.items()},
    ),
    "transreid-ssl flat": ("transreid_ssl_vit_small", lambda s: s),
    "transreid-ssl raw": ("transreid_ssl_vit_small", lambda s: {"teacher": prefixed("backbone.", s) | dino_head()}),
    "transreid-ssl flat in model": (
        "transreid_ssl_vit_small",
        lambda s: {"model": s | {"pre_logits.fc.weight": torch.ones(2)}},
    ),
    "transreid-ssl fine-tuned": (
        "transreid_ssl_vit_small",
        lambda s: prefixed("base.", s | {"fc.weight": torch.ones(2, 2)}) | {"classifier.weight": torch.ones(2, 2)},
    ),
    "transreid-ssl ics flat": ("transreid_ssl_vit_small_ics", lambda s: s),
    "transreid-ssl ics raw": (
        "transreid_ssl_vit_small_ics",
        lambda s: {"teacher": prefixed("module.backbone.", s) | dino_head("module.head.")},
    ),
    "transreid-ssl ics without counters": ("transreid_ssl_vit_small_ics", without_counters),
    "pass flat": ("pass_vit_small", lambda s: s),
    "pass raw": ("pass_vit_small", lambda s: {"teacher": prefixed("backbone.", s) | pass_heads("")}),
    "pass raw, parallel": (
        "pass_vit_small",
        lambda s: {"teacher": prefixed("module.backbone.", s) | pass_heads("module.")},
    ),
    "pass headless prefix": (
        "pass_vit_small",
        lambda s: s | {k.removeprefix("head."): t for k, t in pass_heads("").items()},
    ),
    "pass fine-tuned": (
        "pass_vit_small",
        lambda s: prefixed("base.", s) | {f"bottleneck_{i}.weight": torch.ones(2) for i in (1, 2, 3)},
    ),
    "luperson flat": ("luperson_resnet50", lambda s: s | {"fc.0.weight": torch.ones(2, 2), "fc.2.bias": torch.ones(2)}),
    "luperson raw": ("luperson_resnet50", moco),
    "luperson 101": ("luperson_resnet101", without_counters),
    "luperson-nl raw": ("luperson_nl_resnet50", moco_nl),
    "luperson-nl flat": (
        "luperson_nl_resnet50",
        lambda s: s | {"embed_fc.weight": torch.ones(2), "prototypes": torch.ones(2), "queue_id": torch.ones(2)},
    ),
    "solider": ("solider_swin_tiny", lambda s: prefixed("backbone.", s) | dino_head()),
    "solider raw": (
        "solider_swin_tiny",
        lambda s: {"teacher": prefixed("module.backbone.", s) | dino_head("module.head.")},
    ),
    "solider without tables": (
        "solider_swin_tiny",
        lambda s: prefixed("backbone.", {k: t for k, t in s.items() if not k.endswith("relative_position_index")}),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_released_layouts_load_strictly(layout, tmp_path, undrawn):
    name, wrap = LAYOUTS[layout]
    state = state_of(name)
    torch.save(wrap(state), tmp_path / "x.pth")
    with undrawn():
        model = reidzoo.create_model(name, weights=tmp_path / "x.pth")
    loaded = to_official(model.state_dict(), model)
    assert set(loaded) == set(state)
    wrong = [k for k, t in state.items() if t.is_floating_point() and not bool((loaded[k] == t).all())]
    assert not wrong


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        ("transreid_ssl_vit_small", "pass_vit_small", r"look like those of a PASS ViT.*unexpected: .*part_token1"),
        ("pass_vit_small", "transreid_ssl_vit_small", r"look like those of a ViT\. .*missing: .*part_token1"),
        ("transreid_ssl_vit_small", "vit_small", r"look like those of a ViT with convolution stem"),
        (
            "transreid_ssl_vit_small_ics",
            "transreid_ssl_vit_base_ics",
            r"mis-shaped: cls_token \(1, 1, 768\) for \(1, 1, 384\)",
        ),
        ("solider_swin_tiny", "swin_tiny", r"look like those of a Swin\."),
        ("swin_tiny", "solider_swin_tiny", r"look like those of a SOLIDER Swin"),
        ("luperson_resnet50", "resnet50_ibn", r"look like those of a ResNet-IBN"),
        ("luperson_resnet50", "solider_swin_tiny", r"look like those of a SOLIDER Swin"),
    ],
)
def test_file_of_another_backbone_is_refused(name, other, message, tmp_path):
    torch.save({"teacher": prefixed("backbone.", state_of(other))}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=f"does not fit {name!r}.*{message}"):
        reidzoo.create_model(name, weights=tmp_path / "x.pth")


def test_solider_refuses_other_windows_and_odd_shapes(tmp_path):
    state = state_of("solider_swin_tiny")
    key = "stages.0.blocks.0.attn.w_msa.relative_position_index"
    torch.save({**state, key: state[key].flip(0)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected: .*relative_position_index"):
        reidzoo.create_model("solider_swin_tiny", weights=tmp_path / "x.pth")
    odd = {"stages.0.downsample.norm.weight": torch.ones(382), "stages.0.downsample.norm.bias": torch.tensor(1.0)}
    torch.save({**state, **odd}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="2 mis-shaped"):
        reidzoo.create_model("solider_swin_tiny", weights=tmp_path / "x.pth")
