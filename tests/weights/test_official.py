"""Checkpoint files: what is read, what is refused, what an error says."""

from __future__ import annotations

import argparse
import functools
import os
import pickle
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import reidzoo
from reidzoo.errors import CheckpointError, WeightsNotFoundError
from reidzoo.models import to_official
from reidzoo.weights import load_weights, read_metadata, read_weights, save_model


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    model = reidzoo.create_model("ghostnet_0_5").eval()
    for t in model.state_dict().values():
        if t.is_floating_point():
            t.add_(0.01)
    return model


def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return set(left) == set(right) and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s},
        lambda s: {"model": {"state_dict": {f"module.{k}": t for k, t in s.items()}}},
        lambda s: {"teacher": {f"backbone.{k}": t for k, t in s.items()}},
        lambda s: {
            "teacher": {f"module.backbone.{k}": t for k, t in s.items()} | {"module.head.mlp.0.weight": torch.ones(2)},
            "student": {f"module.backbone.{k}": t * 0 for k, t in s.items()},
        },
        lambda s: {"_orig_mod.module." + k: t for k, t in s.items()},
        lambda s: (
            {f"base.{k}": t for k, t in s.items()} | {"bottleneck.weight": torch.ones(2), "classifier.W": torch.ones(2)}
        ),
        lambda s: {
            "state_dict": {f"module.encoder_q.{k}": t for k, t in s.items()}
            | {"module.encoder_k.conv_stem.weight": torch.ones(1), "module.queue": torch.ones(2)}
        },
        lambda s: {k: t for k, t in s.items() if not k.endswith("num_batches_tracked")},
    ],
    ids=["bare", "state_dict", "nested", "teacher", "official", "compiled", "transreid", "moco", "no counters"],
)
def test_layouts_that_are_understood(wrap, network, tmp_path):
    torch.save(wrap(network.state_dict()), tmp_path / "x.pth")
    assert same(reidzoo.create_model("ghostnet_0_5", weights=tmp_path / "x.pth"), network)


def test_safetensors_and_old_zipless_pickles(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "x.safetensors")
    torch.save(network.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for file in ("x.safetensors", "old.pth"):
        assert same(reidzoo.create_model("ghostnet_0_5", weights=tmp_path / file), network)


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_tiny"])
def test_own_and_official_names_are_told_apart(name, tmp_path):
    """Our ConvNeXt's ``head.norm`` looks like a head, our Swin's ``layers.1.downsample`` like an official one."""
    torch.manual_seed(0)
    model = reidzoo.create_model(name)
    torch.save(model.state_dict(), tmp_path / "own.pth")
    torch.save({"teacher": to_official(model.state_dict(), model)}, tmp_path / "official.pth")
    for file in ("own.pth", "official.pth"):
        assert same(reidzoo.create_model(name, weights=tmp_path / file), model)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_both_spellings_of_numpy_scalars(module, tmp_path):
    content = {
        "teacher": {"backbone.w": torch.ones(2)},
        "args": argparse.Namespace(arch="resnet50"),
        "optimizer": {"param_groups": [{"lr": np.float64(0.1)}]},
    }
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    raw = (tmp_path / "x.pth").read_bytes()
    written = np.float64(0).__reduce__()[0].__module__.encode()
    assert written in raw
    (tmp_path / "x.pth").write_bytes(raw.replace(written + b"\n", module.encode() + b"\n"))
    weights = read_weights(tmp_path / "x.pth")
    assert list(weights.tensors) == ["backbone.w"]
    assert weights.metadata == {"arch": "resnet50", "container": "teacher"}


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Hidden(argparse.Namespace):
    """Looks like the settings of the official training, and is another class."""


class State:
    """Runs code when its state is set."""

    def __setstate__(self, state):
        os.mkdir(state["path"])


class Call:
    """Anything callable, with any arguments."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def state_of(path):
    hidden = State()
    hidden.__dict__["path"] = str(path)
    return hidden


HIDING_PLACES = {
    "beside the weights": lambda bomb: {"teacher": {"w": torch.ones(1)}, "x": bomb},
    "in args": lambda bomb: {"teacher": {"w": torch.ones(1)}, "args": argparse.Namespace(arch="resnet50", lr=bomb)},
    "as args": lambda bomb: {"teacher": {"w": torch.ones(1)}, "args": bomb},
    "in the optimizer": lambda bomb: {"teacher": {"w": torch.ones(1)}, "optimizer": {"param_groups": [{"lr": bomb}]}},
    "among the tensors": lambda bomb: {"teacher": {"w": torch.ones(1), "v": bomb}},
    "in a list in a list": lambda bomb: [[[bomb]]],
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", HIDING_PLACES)
def test_pickle_that_would_run_code_is_refused(place, zipped, tmp_path):
    trap = tmp_path / "ran"
    content = HIDING_PLACES[place](Bomb(trap))
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"refused.*mkdir.*Nothing was executed"):
        read_weights(tmp_path / "x.pth")
    for reader in (lambda p: reidzoo.create_model("ghostnet_0_5", weights=p), reidzoo.weights.import_official):
        with pytest.raises(CheckpointError):
            reader(tmp_path / "x.pth")
    assert not trap.exists()
    torch.load(tmp_path / "x.pth", weights_only=False)
    assert trap.exists()  # the file does what it was made for, where it is let


@pytest.mark.parametrize(
    "make",
    [
        lambda trap: Call(eval, f"__import__('os').mkdir({str(trap)!r})"),
        lambda trap: Call(getattr, Call(__import__, "os"), "mkdir"),
        lambda trap: Call(functools.partial, os.mkdir, str(trap)),
        lambda trap: Call(torch.load, str(trap)),
        lambda trap: state_of(trap),
        lambda trap: Hidden(arch="resnet50"),
        lambda trap: np.array([1.0], dtype=object),
        lambda trap: Call(np.float64(0).__reduce__()[0], np.dtype("f8"), b"123"),
        lambda trap: Call(np.float64(0).__reduce__()[0], Call(np.dtype, "S4"), b"abcd"),
    ],
    ids=["eval", "getattr", "partial", "torch.load", "setstate", "subclass", "object array", "short scalar", "bytes"],
)
def test_nothing_but_what_weights_need_is_built(make, tmp_path):
    trap = tmp_path / "ran"
    torch.save({"teacher": {"w": torch.ones(1)}, "args": make(trap)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"refused|safely"):
        read_weights(tmp_path / "x.pth")
    assert not trap.exists()


def test_plain_pickle_that_would_run_code_is_refused(tmp_path):
    trap = tmp_path / "ran"
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Bomb(trap), protocol=2))
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "x.pth")
    assert not trap.exists()


def test_allow_list_does_not_leak(tmp_path, network):
    """After reading, torch.load in the same process is as strict as before."""
    torch.save({"teacher": network.state_dict(), "args": argparse.Namespace()}, tmp_path / "x.pth")
    read_weights(tmp_path / "x.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pth", weights_only=True)


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, 0.5, 0.999])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_truncated_files(keep, suffix, network, tmp_path):
    path = tmp_path / f"x.{suffix}"
    if suffix == "pth":
        torch.save({"teacher": network.state_dict()}, path)
    else:
        save_model(network, path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"x\.(pth|safetensors)"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "108 bytes"),
    ],
)
def test_files_that_are_something_else(content, message, tmp_path):
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            read_weights(tmp_path / name)


def test_file_without_tensors(tmp_path):
    torch.save({"epoch": 3, "args": argparse.Namespace(lr=1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_weights(tmp_path / "x.pth")


def test_missing_file(tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"none\.pth"):
        read_weights(tmp_path / "none.pth")


def test_mismatch_names_the_tensors_and_changes_nothing(network, tmp_path):
    state = dict(network.state_dict())
    state["conv_extra.weight"] = torch.ones(1)
    state["conv_stem.weight"] = torch.ones(3, 3)
    del state["blocks.0.0.ghost1.primary_conv.0.weight"]
    torch.save(state, tmp_path / "x.pth")
    model = reidzoo.create_model("ghostnet_0_5")
    before = {k: t.clone() for k, t in model.state_dict().items()}
    with pytest.raises(CheckpointError) as e:
        load_weights(model, tmp_path / "x.pth")
    assert "1 missing: blocks.0.0.ghost1.primary_conv.0.weight" in str(e.value)
    assert "1 unexpected: conv_extra.weight" in str(e.value)
    assert "1 mis-shaped: conv_stem.weight (3, 3) for (8, 3, 3, 3)" in str(e.value)
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())


def test_checkpoint_of_another_model_is_recognised(network, tmp_path):
    torch.save({"teacher": network.state_dict(), "args": argparse.Namespace(arch="ghostnet_0_5")}, tmp_path / "a.pth")
    torch.save(network.state_dict(), tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"does not fit 'resnet18'. The file says that it holds 'ghostnet_0_5'"):
        reidzoo.create_model("resnet18", weights=tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="look like those of a GhostNet"):
        reidzoo.create_model("resnet18", weights=tmp_path / "b.pth")


def test_signatures_name_all_families():
    from reidzoo.weights._identify import describe
    from reidzoo.weights.official import Weights

    words = {"resnet": "ResNet", "resnet_ibn": "ResNet-IBN", "vit": "convolution stem", "volo": "VOLO", "swin": "Swin"}
    words |= {
        "fastvit": "FastViT",
        "repvit": "RepViT",
        "edgenext": "EdgeNeXt",
        "convnext": "ConvNeXt",
        "ghostnet": "GhostNet",
        "vit_plain": " ViT",
        "pass_vit": "PASS ViT",
        "solider": "SOLIDER Swin",
    }
    one_each = {reidzoo.model_info(name).family: name for name in reidzoo.list_models()}
    for name in one_each.values():
        with torch.device("meta"):
            model = reidzoo.create_model(name)
        for state in (model.state_dict(), to_official(model.state_dict(), model)):
            assert describe(Weights(state, {})).endswith(words[reidzoo.model_info(name).family]), name


def test_damaged_numbers(network, tmp_path):
    state = {k: t.clone() for k, t in network.state_dict().items()}
    state["conv_head.bias"][3] = float("nan")
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"1 not finite: conv_head\.bias"):
        reidzoo.create_model("ghostnet_0_5", weights=tmp_path / "x.pth")


def test_header(network, tmp_path):
    path = save_model(network, tmp_path / "run", method="cion", epochs=3)
    assert path == tmp_path / "run" / "model.safetensors"
    header = read_metadata(path)
    assert header == read_metadata(path.parent)
    assert {k: header[k] for k in ("model", "head", "num_classes", "img_size", "method", "epochs")} == {
        "model": "ghostnet_0_5",
        "head": "",
        "num_classes": "0",
        "img_size": "256x128",
        "method": "cion",
        "epochs": "3",
    }
    assert header["reidzoo_version"] == reidzoo.__version__
    assert os.listdir(path.parent) == ["model.safetensors"]


def test_header_of_a_file_that_has_none(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no reidzoo header"):
        read_metadata(tmp_path / "x.safetensors")


def test_weights_of_a_file_with_head(network, tmp_path):
    torch.manual_seed(0)
    full = reidzoo.create_model("ghostnet_0_5", head="bnneck", num_classes=4)
    full.head.bottleneck.running_mean.add_(1)
    full.pretrained_cfg["mean"] = (0.5, 0.5, 0.5)
    path = save_model(full, tmp_path / "x.safetensors")
    backbone = reidzoo.create_model("ghostnet_0_5", weights=path)
    assert same(backbone, full.backbone)
    assert backbone.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    assert same(reidzoo.create_model("ghostnet_0_5", weights=path, head="bnneck", num_classes=4), full)
    with pytest.raises(CheckpointError, match=r"another one.*classifier\.weight \(4, 1280\) for \(5, 1280\)"):
        reidzoo.create_model("ghostnet_0_5", weights=path, head="bnneck", num_classes=5)


def test_save_is_atomic(network, tmp_path, monkeypatch):
    """A write that fails leaves the file of before, and nothing beside it."""
    path = save_model(network, tmp_path / "x.safetensors")
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(network, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_killed_while_saving_leaves_the_old_file(network, tmp_path, warm_python):
    path = save_model(network, tmp_path / "x.safetensors")
    before = path.read_bytes()
    code = (
        "import os, sys, reidzoo, reidzoo.weights\n"
        "model = reidzoo.create_model('ghostnet_0_5')\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), 9)\n"
        "reidzoo.weights.save_model(model, sys.argv[1])\n"
    )
    assert subprocess.run([warm_python, "-c", code, str(path)], timeout=120).returncode == -9
    assert path.read_bytes() == before
