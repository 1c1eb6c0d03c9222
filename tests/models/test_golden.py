"""Parity with the official definitions, all 32: same tensors, same outputs, and back to the same file."""

from __future__ import annotations

import hashlib

import pytest
import torch

import reidzoo
from reidzoo.models import DINOHead, to_official
from reidzoo.weights import export_official, load_weights


def layout(state):
    return sorted(f"{key} {list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for key, t in state.items())


def same_tensors(found, expected):
    """Bit for bit, in either order."""
    assert set(found) == set(expected)
    assert [k for k in expected if found[k].dtype != expected[k].dtype or not torch.equal(found[k], expected[k])] == []


def test_fill_and_images_follow_the_rule(manifest, fill, images):
    spots = manifest["spot_checks"]
    first = fill("conv1.weight", (64, 3, 7, 7)).flatten()[:3]
    assert first.tolist() == pytest.approx(spots["fill conv1.weight (64,3,7,7) first 3"])
    var = fill("bn1.running_var", (64,))[:3]
    assert var.tolist() == pytest.approx(spots["fill bn1.running_var (64,) first 3"])
    x = images(2, 256, 128).flatten()[:3]
    assert x.tolist() == pytest.approx(spots["input (2,3,256,128) first 3"])


@pytest.mark.parametrize("name", reidzoo.list_models(tag="reidzoo"))
def test_official_checkpoint_gives_the_official_outputs_and_is_written_back(
    name, manifest, golden, fill, images, official_container, official_state, scratch, undrawn
):
    expected = manifest["models"][name]
    prefix = expected["checkpoint_prefix"]
    state = official_state(name, fill)
    total = sum(float(t.double().sum()) for t in state.values() if t.is_floating_point())
    assert total == pytest.approx(expected["fill_sum"], abs=1e-3)
    path = scratch / f"{reidzoo.model_info(name).official_stem}.pth"
    torch.save(official_container(state, prefix, name), path)

    with undrawn():
        model = reidzoo.create_model(name, weights=path).eval()
    path.unlink()
    for size, (n, height, width) in manifest["sizes"].items():
        with torch.inference_mode():
            out = model(images(n, height, width))
        reference = torch.from_numpy(golden[f"{name}/{size}"])
        torch.testing.assert_close(out, reference, rtol=0, atol=expected["atol"], msg=lambda m, s=size: f"{s}: {m}")

    exported = export_official(model, scratch / "exported.pth")
    teacher = torch.load(exported, weights_only=True, mmap=True)["teacher"]
    same_tensors(teacher, {prefix + key: tensor for key, tensor in state.items()})
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(7)
    load_weights(model, exported)
    same_tensors(to_official(model.state_dict(), model), state)


def test_there_are_32(manifest, golden):
    """None is left out: the manifest, the arrays and the zoo name the same models."""
    names = set(reidzoo.list_models(tag="reidzoo"))
    assert len(names) == 32
    assert set(manifest["models"]) == names
    assert {f"{name}/{size}" for name in names for size in manifest["sizes"]} <= set(golden)


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
