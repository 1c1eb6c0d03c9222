"""What timm offers on its models works on ours: one model of each family, the smallest."""

from __future__ import annotations

import copy
import itertools

import pytest
import timm
import torch
from timm.models._features import FeatureGetterNet
from timm.optim import param_groups_layer_decay
from timm.utils import reparameterize_model
from torch.export import Dim
from torch.torch_version import TorchVersion

import reidzoo
from reidzoo.errors import ConfigError
from reidzoo.models import from_official
from reidzoo.weights import save_model

SPECS = sorted(map(reidzoo.model_info, reidzoo.list_models()), key=lambda spec: -spec.params_m)
FAMILIES = {spec.family: spec.name for spec in SPECS}  # the last of each family is the smallest
NAMES = sorted(FAMILIES.values())
HEIGHT, WIDTH = 128, 64


@pytest.fixture(scope="module")
def filled(fill, official_state, undrawn):
    """filled(name): in evaluation mode, with weights that are not those of a start."""

    def filled(name, **options):
        with undrawn():
            model = reidzoo.create_model(name, **options)
        model.load_state_dict(from_official(official_state(name, fill, **options), model))
        return model.eval()

    return filled


@pytest.fixture
def x():
    return torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_features_only_gives_the_maps_of_forward_intermediates(name, x, tmp_path, undrawn):
    model = reidzoo.create_model(name).eval()
    save_model(model, tmp_path / "model.safetensors")
    info, last = model.feature_info, len(model.feature_info) - 1
    with torch.inference_mode():
        expected = model.forward_intermediates(x, intermediates_only=True)
        for out_indices, taken in (
            (None, range(last + 1) if last < 5 else range(last - 2, last + 1)),
            ((0, 2), (0, 2)),
            (2, (last - 1, last)),
            ([-1], (last,)),
        ):
            with undrawn():
                maps = reidzoo.create_model(name, weights=tmp_path, features_only=True, out_indices=out_indices).eval()
            assert isinstance(maps, FeatureGetterNet)
            found = maps(x)
            assert len(found) == len(taken)
            assert all(torch.equal(f, expected[i]) for f, i in zip(found, taken, strict=True))
            assert maps.feature_info.channels() == [f.shape[1] for f in found] == [info[i]["num_chs"] for i in taken]
            assert maps.feature_info.reduction() == [HEIGHT // f.shape[2] for f in found]
            assert maps.pretrained_cfg["mean"] == model.pretrained_cfg["mean"]
            assert "num_classes" not in maps.pretrained_cfg


@pytest.mark.parametrize("name", NAMES)
def test_feature_maps_train_with_checkpointing(name, x):
    """The gradients are the same with and without; the layers behind the last map are gone."""
    whole = reidzoo.create_model(name)
    torch.manual_seed(0)
    maps = reidzoo.create_model(name, features_only=True, out_indices=(0, 1), **no_drop(name))
    assert sum(p.numel() for p in maps.parameters()) < sum(p.numel() for p in whole.parameters())
    seen = []
    for checkpointing in (False, True):
        maps.set_grad_checkpointing(checkpointing)
        maps.zero_grad()
        sum(f.square().mean() for f in maps(x)).backward()
        seen.append({key: p.grad.clone() for key, p in maps.named_parameters() if p.grad is not None})
    assert seen[0].keys() == seen[1].keys() != set()
    for key, grad in seen[0].items():
        torch.testing.assert_close(seen[1][key], grad, rtol=1e-3, atol=1e-4 * float(grad.abs().max()))


def no_drop(name):
    """Swin drops paths in training unless told otherwise."""
    return {"drop_path_rate": 0.0} if "swin" in name else {}


def test_feature_maps_of_a_training_file_and_of_any_timm_model(tmp_path, x):
    save_model(reidzoo.create_model("ghostnet_0_5", head="linear", num_classes=3), tmp_path)
    maps = reidzoo.create_model(f"local-dir:{tmp_path}", features_only=True, out_indices=(4,))
    assert [tuple(f.shape) for f in maps(x)] == [(2, 80, 4, 2)]
    maps = reidzoo.create_model("timm/resnet18", features_only=True)
    assert maps.feature_info.reduction() == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features_only": True, "out_indices": (0, 5)}, r"ghostnet_0_5' has 5 maps: 0 to 4"),
        ({"features_only": True, "out_indices": 6}, r"has 5 maps"),
        ({"features_only": True, "out_indices": ()}, r"has 5 maps"),
        ({"out_indices": (1,)}, "add features_only=True"),
        ({"features_only": True, "head": "bnneck", "num_classes": 5}, "choose one"),
        ({"features_only": True, "num_classes": 5}, "choose one"),
    ],
)
def test_feature_maps_that_are_not_there(arguments, message):
    with pytest.raises(ConfigError, match=message):
        reidzoo.create_model("ghostnet_0_5", **arguments)


@pytest.mark.parametrize("name", NAMES)
def test_layer_decay_covers_all_parameters_in_the_order_of_depth(name):
    """The stem learns slowest; what the feature maps pass later learns faster than what they pass earlier."""
    if name.startswith("repvit") and TorchVersion(timm.__version__) < "1.0.31":
        pytest.skip("timm's table of RepViT's layers is one stem and one rest before 1.0.31")
    model = reidzoo.create_model(name)
    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scale) == sum(len(group["params"]) for group in groups)
    scales = {key: scale[id(p)] for key, p in model.named_parameters() if p.requires_grad}
    assert len(scales) == len(scale)
    convs = model.pretrained_cfg["first_conv"]
    first = convs if isinstance(convs, str) else convs[0]
    assert scales[f"{first}.weight"] == min(scales.values()) < 0.5**4
    stages = [info["module"] for info in model.feature_info]
    depth = [max((s for key, s in scales.items() if key.startswith(f"{stage}.")), default=None) for stage in stages]
    depth = [d for d in depth if d is not None]  # an activation has no parameters
    assert len(depth) >= 3
    assert all(a < b for a, b in itertools.pairwise(depth))


@pytest.mark.parametrize("name", NAMES)
def test_reset_classifier_and_back(name, x):
    model = reidzoo.create_model(name).eval()
    with torch.inference_mode():
        features = model(x)
        model.reset_classifier(10)
        assert model.eval()(x).shape == (2, 10)
        assert model.num_classes == 10
        assert torch.equal(model.forward_head(model.forward_features(x), pre_logits=True), features)
        names = model.pretrained_cfg["classifier"]
        layers = [model.get_submodule(layer) for layer in ((names,) if isinstance(names, str) else names)]
        assert [layer.out_features for layer in layers] == [10]
        model.reset_classifier(0)
        assert torch.equal(model.eval()(x), features)


@pytest.mark.parametrize("name", NAMES)
def test_options_of_timm(name):
    """Grey images, another size, dropped paths, half precision, copies."""
    options = {"in_chans": 1, "img_size": (64, 32)}
    x = torch.rand(4, 1, 64, 32)
    if name.startswith(("ghostnet", "repvit")):  # timm has no dropped paths there
        with pytest.raises(TypeError, match="drop_path_rate"):
            reidzoo.create_model(name, drop_path_rate=0.2)
        model = reidzoo.create_model(name, **options)
    else:
        model = reidzoo.create_model(name, drop_path_rate=0.5, **options)
        assert not torch.equal(model(x), model(x))
    assert model.pretrained_cfg["input_size"] == (1, 64, 32)
    assert model(x).shape == (4, model.embed_dim)
    model.eval()
    with torch.inference_mode():
        expected = model(x)
        torch.testing.assert_close(copy.deepcopy(model)(x), expected)
        half = copy.deepcopy(model).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half.float(), expected).min() > 0.98


# Fewer blocks of every kind: tracing a block again shows nothing new.
SHALLOW = {
    "resnet": {"layers": (1, 1, 1, 1)},
    "resnet_ibn": {"layers": (1, 1, 1, 1)},
    "vit": {"depth": 2},
    "swin": {"depths": (2, 2, 2, 2)},
    "convnext": {"depths": (1, 1, 2, 1)},
    "edgenext": {"depths": (2, 2, 2, 2)},
    "ghostnet": {},
    "repvit": {"depth": (2, 2, 2, 2)},
    "fastvit": {"layers": (1, 1, 1, 1)},
    "volo": {},
}


@pytest.mark.parametrize("family", SHALLOW)
def test_compile_and_export(family, x, filled):
    """torch.compile captures one graph, torch.export one of functional operators for any batch size.

    The code generator behind them is torch's own and slow; it is left out.
    """
    model = filled(FAMILIES[family], **SHALLOW[family])
    with torch.device("meta"):
        whole = reidzoo.create_model(FAMILIES[family])
    assert {type(m) for m in model.modules()} == {type(m) for m in whole.modules()}
    more = torch.cat([x, x.flip(3)[:1]])
    with torch.no_grad():
        expected, of_more = model(x), model(more)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)(x)
        exported = torch.export.export(model, (x,), dynamic_shapes={"x": {0: Dim.DYNAMIC}}).module()
        tolerance = {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(compiled, expected, **tolerance)
        torch.testing.assert_close(exported(x), expected, **tolerance)
        torch.testing.assert_close(exported(more), of_more, **tolerance)


@pytest.mark.parametrize(
    "name", ["repvit_m0_9", "repvit_m1_0", "repvit_m1_5", "fastvit_s12", "fastvit_sa12", "fastvit_sa24"]
)
def test_reparameterised_model_gives_the_same(name, x, filled):
    model = filled(name)
    fused = reparameterize_model(model)
    assert len(list(fused.parameters())) < len(list(model.parameters()))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules()) or "fastvit" in name
    with torch.inference_mode():
        expected = model(x)
        torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-4)
    assert float(expected.std()) > 0.1
