"""Parity with the official definitions: same tensors, same outputs."""

from __future__ import annotations

import hashlib

import pytest
import torch

import reidzoo
from reidzoo.models import DINOHead, to_official

MODELS = (
    "resnet18",
    "resnet18_ibn",
    "resnet50_ibn",
    "vit_tiny",
    "swin_tiny",
    "convnext_tiny",
    "edgenext_x_small",
    "ghostnet_0_5",
    "repvit_m0_9",
    "repvit_m1_5",  # loads into timm's own without complaint, and differs
    "fastvit_s12",
    "fastvit_sa12",  # with position encodings
    "volo_d1",
)


def layout(state):
    return sorted(f"{key} {list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for key, t in state.items())


def test_fill_and_images_follow_the_rule(manifest, fill, images):
    spots = manifest["spot_checks"]
    first = fill("conv1.weight", (64, 3, 7, 7)).flatten()[:3]
    assert first.tolist() == pytest.approx(spots["fill conv1.weight (64,3,7,7) first 3"])
    var = fill("bn1.running_var", (64,))[:3]
    assert var.tolist() == pytest.approx(spots["fill bn1.running_var (64,) first 3"])
    x = images(2, 256, 128).flatten()[:3]
    assert x.tolist() == pytest.approx(spots["input (2,3,256,128) first 3"])


@pytest.mark.parametrize("name", MODELS)
def test_official_checkpoint_gives_the_official_outputs(
    name, manifest, golden, fill, images, official_container, tmp_path
):
    expected = manifest["models"][name]
    model = reidzoo.create_model(name)
    state = {
        key: fill(key, tuple(t.shape)) if t.is_floating_point() else t.clone()
        for key, t in to_official(model.state_dict(), model).items()
    }
    total = sum(float(t.double().sum()) for t in state.values() if t.is_floating_point())
    assert total == pytest.approx(expected["fill_sum"], abs=1e-3)
    path = tmp_path / f"{reidzoo.model_info(name).official_stem}.pth"
    torch.save(official_container(state, expected["checkpoint_prefix"], name), path)
    del model

    model = reidzoo.create_model(name, weights=path).eval()
    for size, (n, height, width) in manifest["sizes"].items():
        with torch.inference_mode():
            out = model(images(n, height, width))
        reference = torch.from_numpy(golden[f"{name}/{size}"])
        torch.testing.assert_close(out, reference, rtol=0, atol=expected["atol"], msg=lambda m, s=size: f"{s}: {m}")
    back = to_official(model.state_dict(), model)
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_layout_of_all_32_is_the_official_one(manifest):
    for name, expected in manifest["models"].items():
        with torch.device("meta"):
            model = reidzoo.create_model(name)
        official = to_official(model.state_dict(), model)
        assert hashlib.sha256("\n".join(layout(official)).encode()).hexdigest() == expected["layout_sha256"], name


def test_projection_head_in_training_mode(golden, fill, images):
    """Backbone and head in training mode, four crops of two sizes; batch statistics are taken per size."""
    backbone, head = reidzoo.create_model("vit_small"), DINOHead(384, 512)
    with torch.no_grad():
        for module, prefix in ((backbone, ""), (head, "head.")):
            for key, t in module.state_dict().items():
                if t.is_floating_point() and not key.endswith("weight_g"):
                    t.copy_(fill(prefix + key, tuple(t.shape)))
    crops = [images(4, *((256, 128) if c < 2 else (128, 64)), seed=[0, 1 + c]) for c in range(4)]
    with torch.no_grad():
        logits = head(torch.cat([backbone(torch.cat(crops[:2])), backbone(torch.cat(crops[2:]))]))
    assert logits.shape[1] == 512
    reference = torch.from_numpy(golden["train/vit_small/student"])
    torch.testing.assert_close(logits[:, :64], reference, rtol=0, atol=1e-4)
