"""create_model: sources of models and weights, and what it refuses."""

from __future__ import annotations

import pytest
import torch

import reidzoo
from reidzoo.errors import (
    CheckpointError,
    ConfigError,
    HubAccessError,
    LicenseNotAcceptedError,
    UnknownModelError,
    WeightsNotFoundError,
)
from reidzoo.models import ReIDModel
from reidzoo.weights import save_model


def test_unknown_names():
    with pytest.raises(UnknownModelError, match="'resnet50'"):
        reidzoo.create_model("resnet_50")
    with pytest.raises(UnknownModelError, match="'resnet18'"):
        reidzoo.create_model("timm/resnett18")


def test_pretrained_says_what_is_missing(monkeypatch, tmp_path):
    """First the terms, then the file."""
    monkeypatch.setenv("REIDZOO_HOME", str(tmp_path))  # acceptance is remembered there
    monkeypatch.delenv("REIDZOO_ACCEPT_LICENSE", raising=False)
    monkeypatch.delenv("REIDZOO_HUB_REPO", raising=False)
    with pytest.raises(LicenseNotAcceptedError, match="reidzoo license accept reidzoo"):
        reidzoo.create_model("edgenext_x_small", pretrained=True)
    monkeypatch.setenv("REIDZOO_ACCEPT_LICENSE", "reidzoo")
    with pytest.raises(WeightsNotFoundError, match=r"weights import EdgeNext_XSmall\.pth.*weights='") as e:
        reidzoo.create_model("edgenext_x_small", pretrained=True)
    assert isinstance(e.value, FileNotFoundError)


def test_input_size_that_was_asked_for_counts_more_than_the_one_in_the_file(tmp_path):
    save_model(reidzoo.create_model("ghostnet_0_5", img_size=(384, 128)), tmp_path)
    assert reidzoo.create_model("ghostnet_0_5", weights=tmp_path).pretrained_cfg["input_size"] == (3, 384, 128)
    model = reidzoo.create_model("ghostnet_0_5", weights=tmp_path, img_size=(128, 64))
    assert model.pretrained_cfg["input_size"] == (3, 128, 64)


def test_weights_of_another_model_are_refused(tmp_path):
    save_model(reidzoo.create_model("ghostnet_0_5"), tmp_path)
    with pytest.raises(CheckpointError, match="mis-shaped"):
        reidzoo.create_model("ghostnet_1_0", weights=tmp_path)


def test_configuration_is_ours_and_not_that_of_timms_weights():
    cfg = reidzoo.create_model("resnet50_ibn").pretrained_cfg
    assert cfg["architecture"] == "reidzoo_resnet50_ibn"
    assert cfg["classifier"] == "fc"
    assert not {"url", "hf_hub_id", "test_input_size", "origin_url", "paper_ids"} & set(cfg)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 751}, "head='bnneck'"),
        ({"head": "bnneck"}, "num_classes >= 1"),
        ({"head": "alignedreid", "num_classes": 3}, "Heads: bnneck, linear"),
        ({"pretrained": True, "weights": "x.pth"}, "choose one"),
        ({"img_size": (256, 128, 3)}, r"\(height, width\)"),
        ({"img_size": 0}, r"\(height, width\)"),
    ],
)
def test_arguments_that_contradict(arguments, message):
    with pytest.raises(ConfigError, match=message):
        reidzoo.create_model("ghostnet_0_5", **arguments)


def test_alias_gives_the_canonical_name():
    assert reidzoo.create_model("GhostNet_0_5.pth").reidzoo_name == "ghostnet_0_5"


def test_img_size_is_declared():
    assert reidzoo.create_model("ghostnet_0_5", img_size=(128, 64)).pretrained_cfg["input_size"] == (3, 128, 64)
    assert reidzoo.create_model("ghostnet_0_5", img_size=224).pretrained_cfg["input_size"] == (3, 224, 224)


@pytest.mark.parametrize(
    "name",
    [
        "timm/resnet18",  # any size
        "timm/mobilenetv3_small_050",  # feature wider than num_features
        "timm/vit_tiny_patch16_224",  # fixed size, dynamic option
        "timm/swin_tiny_patch4_window7_224",
        "timm/swinv2_cr_tiny_224",
    ],
)
def test_any_timm_model(name):
    model = reidzoo.create_model(name).eval()
    assert model.reidzoo_name == name
    assert model.pretrained_cfg["input_size"] == (3, 256, 128)
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 256, 128)).shape == (1, model.embed_dim)


def test_timm_transformer_takes_local_crops():
    model = reidzoo.create_model("timm/vit_tiny_patch16_224").eval()
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 128, 64)).shape == (1, 192)


def test_timm_options_are_passed_on():
    assert reidzoo.create_model("ghostnet_0_5", drop_rate=0.3).drop_rate == 0.3
    with pytest.raises(TypeError, match="drop_rat"):
        reidzoo.create_model("ghostnet_0_5", drop_rat=0.3)


@pytest.mark.parametrize("name", ["ghostnet_0_5", "timm/vit_tiny_patch16_224"])
def test_local_dir_rebuilds_from_the_file_alone(name, tmp_path):
    model = reidzoo.create_model(name, img_size=(128, 64)).eval()
    model.pretrained_cfg.update(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.5))
    save_model(model, tmp_path)
    again = reidzoo.create_model(f"local-dir:{tmp_path}").eval()
    assert again.reidzoo_name == name
    assert {k: again.pretrained_cfg[k] for k in ("input_size", "mean", "std")} == {
        "input_size": (3, 128, 64),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.5, 0.5),
    }
    x = torch.rand(1, 3, 128, 64)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))


def test_local_dir_with_head_and_options(tmp_path):
    model = reidzoo.create_model("resnet18_ibn", head="bnneck", num_classes=11, drop_rate=0.1)
    model.head.options["neck_feature"] = "after"
    model(torch.rand(4, 3, 64, 32))  # moves the running statistics
    path = save_model(model.eval(), tmp_path / "fine.safetensors", method="transreid")
    again = reidzoo.create_model(f"local-dir:{path}").eval()
    assert isinstance(again, ReIDModel)
    assert (again.head.name, again.head.num_classes, again.head.options["neck_feature"]) == ("bnneck", 11, "after")
    assert again.backbone.drop_rate == 0.1
    x = torch.rand(2, 3, 64, 32)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))
    with pytest.raises(ConfigError, match="backbone alone"):
        reidzoo.create_model(f"local-dir:{path}", head="bnneck", num_classes=12)
    with pytest.raises(ConfigError, match="leave out drop_rate"):
        reidzoo.create_model(f"local-dir:{path}", drop_rate=0.5)


def test_local_dir_without_head_may_get_one(tmp_path):
    save_model(reidzoo.create_model("ghostnet_0_5"), tmp_path)
    model = reidzoo.create_model(f"local-dir:{tmp_path}", head="linear", num_classes=3)
    assert (model.head.name, model.head.num_classes) == ("linear", 3)


def test_local_dir_that_is_not_there(tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"model\.safetensors"):
        reidzoo.create_model(f"local-dir:{tmp_path}")


def test_hub_repository_that_cannot_be_read(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubAccessError, match="nobody/nothing"):
        reidzoo.create_model("hf-hub:nobody/nothing", cache_dir=tmp_path)
    with pytest.raises(ConfigError, match="'not a repository'"):
        reidzoo.create_model("hf-hub:not a repository", cache_dir=tmp_path)
