"""The zoo through the doors of other libraries: timm's create_model, torch.hub."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import reidzoo
from reidzoo.errors import LicenseNotAcceptedError
from reidzoo.models import ReIDModel
from reidzoo.weights import export_official, import_official, save_model
from reidzoo.weights.hub import save_pretrained

ROOT = Path(__file__).parents[1]
SMALL = "ghostnet_0_5"


@pytest.fixture
def run(warm_python):
    """run(code, folder=ROOT): what `code` prints in a process where torch alone is imported, started in `folder`."""

    def run(code, folder=ROOT):
        out = subprocess.run([warm_python, "-c", code], capture_output=True, text=True, cwd=folder, timeout=120)
        assert out.returncode == 0, out.stderr
        return out.stdout

    return run


@pytest.fixture
def x():
    return torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def nothing_accepted(monkeypatch, tmp_path):
    monkeypatch.setenv("REIDZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REIDZOO_ACCEPT_LICENSE", raising=False)


@pytest.fixture
def ours(tmp_path):
    """A model of ours with its own preprocessing, and the folder that it was saved to for timm."""
    model = reidzoo.create_model(SMALL, img_size=(128, 64)).eval()
    model.pretrained_cfg.update(mean=(0.5, 0.4, 0.3))
    save_model(model, tmp_path)
    config = {
        "architecture": f"reidzoo_{SMALL}",
        "num_classes": 0,
        "num_features": model.embed_dim,
        "model_args": {"drop_rate": 0.1},
        "pretrained_cfg": {"input_size": [3, 128, 64], "mean": [0.5, 0.4, 0.3], "std": [0.229, 0.224, 0.225]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return model, tmp_path


def test_timm_knows_every_name():
    names = timm.list_models("reidzoo_*")
    assert sorted(names) == sorted(f"reidzoo_{name}" for name in reidzoo.list_models())
    cfg, spec = timm.models.get_pretrained_cfg("reidzoo_resnet50_ibn"), reidzoo.model_info("resnet50_ibn")
    assert (cfg.input_size, cfg.mean, cfg.std, cfg.num_classes) == (spec.input_size, spec.mean, spec.std, 0)
    assert cfg.license == "reidzoo"
    assert timm.list_models("reidzoo_*", pretrained=True) == []  # nobody can just download them


@pytest.mark.parametrize(
    "imports",
    [
        "import reidzoo, timm",
        "import timm, reidzoo",
        "import reidzoo, timm, importlib; importlib.reload(timm); importlib.reload(reidzoo)",
        "import reidzoo, importlib.util as u; assert u.find_spec('timm'); from timm.models import *; import timm",
    ],
)
def test_registered_whichever_is_imported_first(imports, run):
    """Once, without a warning; and what asks the module's loader for files still gets them."""
    code = (
        f"import warnings; warnings.simplefilter('error')\n{imports}\n"
        "import importlib.resources as r, pkgutil\n"
        "assert (r.files('timm') / 'version.py').is_file() and pkgutil.get_data('timm', 'version.py')\n"
        "print(len(timm.list_models('reidzoo_*')))"
    )
    assert run(code).strip() == str(len(reidzoo.list_models()))


def test_timm_works_when_registering_fails(run):
    code = (
        "import sys, reidzoo\n"
        "assert 'timm' not in sys.modules\n"
        "sys.modules['reidzoo.models._timm_door'] = None\n"
        "import timm; assert timm.is_model('resnet18') and not timm.is_model('reidzoo_resnet18'); print('fine')"
    )
    assert run(code).strip() == "fine"


def test_two_hooks_of_this_kind_do_not_call_each_other_forever(run):
    code = (
        "import sys\n"
        "class Other:\n"
        "    def find_spec(self, *asked):\n"
        "        return next((s for f in sys.meta_path if f is not self and (s := f.find_spec(*asked))), None)\n"
        "import reidzoo; sys.meta_path.insert(0, Other()); import timm; print(timm.is_model('reidzoo_resnet18'))"
    )
    assert run(code).strip() == "True"


def test_timm_create_model_is_ours(x):
    torch.manual_seed(0)
    model = timm.create_model(f"reidzoo_{SMALL}", img_size=(64, 32)).eval()
    torch.manual_seed(0)
    expected = reidzoo.create_model(SMALL, img_size=(64, 32)).eval()
    assert model.reidzoo_name == SMALL
    assert model.pretrained_cfg == expected.pretrained_cfg
    with torch.inference_mode():
        assert torch.equal(model(x), expected(x))


def test_timm_arguments(x):
    """num_classes, features_only, in_chans and the options of the architecture mean what they mean in timm."""
    model = timm.create_model(f"reidzoo_{SMALL}", num_classes=7, drop_rate=0.2)
    assert model(x).shape == (2, 7)
    assert (model.num_classes, model.drop_rate) == (7, 0.2)
    model.reset_classifier(0)
    assert model(x).shape == (2, 1280)
    maps = timm.create_model(f"reidzoo_{SMALL}", features_only=True, out_indices=(1, 3), num_classes=7)
    assert [f.shape[1] for f in maps(x)] == maps.feature_info.channels() == [12, 40]
    assert timm.create_model(f"reidzoo_{SMALL}", in_chans=1)(x[:, :1]).shape == (2, 1280)
    assert isinstance(timm.create_model(f"reidzoo_{SMALL}", head="bnneck", num_classes=5), ReIDModel)
    with pytest.raises(ValueError, match="no pretrained tags: leave out 'cion'"):
        timm.create_model(f"reidzoo_{SMALL}.cion")


def test_timm_loads_files(ours, x):
    """`checkpoint_path` reads our files, `weights` all that reidzoo reads, the overlay a file of either kind."""
    model, folder = ours
    file = folder / "model.safetensors"
    for options in (
        {"checkpoint_path": file},
        {"weights": file},
        {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}},
        {"pretrained": True, "pretrained_cfg": {"file": str(file)}, "num_classes": 0},
    ):
        again = timm.create_model(f"reidzoo_{SMALL}", **options).eval()
        with torch.inference_mode():
            assert torch.equal(again(x), model(x))
    again = timm.create_model(f"reidzoo_{SMALL}", weights=file, num_classes=7).eval()
    with torch.inference_mode():
        assert again(x).shape == (2, 7)
        assert torch.equal(again.forward_head(again.forward_features(x), pre_logits=True), model(x))


def test_timm_local_dir(ours, x):
    model, folder = ours
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert again.reidzoo_name == SMALL
    assert again.drop_rate == 0.1
    assert tuple(again.pretrained_cfg["mean"]) == (0.5, 0.4, 0.3)
    assert tuple(again.pretrained_cfg["input_size"]) == (3, 128, 64)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))
        other = timm.create_model(f"local-dir:{folder}").eval()
        assert not torch.equal(other(x), model(x))
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=4)(x).shape == (2, 4)
    maps = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    with torch.inference_mode():
        expected = model.forward_intermediates(x, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(maps(x), expected, strict=True))


@pytest.mark.parametrize("name", ["vit_tiny", "timm/resnet18"])
def test_timm_reads_what_save_pretrained_writes(name, tmp_path):
    model = reidzoo.create_model(name).eval()
    save_pretrained(model, tmp_path)
    x = torch.rand(1, 3, 192, 96)
    with torch.inference_mode():
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert torch.equal(again(x), model(x))


def test_timm_hf_hub(ours, tmp_path_factory, x, run):
    """The hub's cache as huggingface_hub lays it out, read by its client without network."""
    model, folder = ours
    home = tmp_path_factory.mktemp("hf")
    repo, commit = home / "hub" / "models--owner--name", "0123456789" * 4
    for file in ("model.safetensors", "config.json"):
        (repo / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / file, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    code = f"""
import os
os.environ |= {{"HF_HOME": {str(home)!r}, "HF_HUB_OFFLINE": "1"}}
os.environ.pop("HF_HUB_CACHE", None)
import reidzoo, timm, torch
model = timm.create_model("hf-hub:owner/name", pretrained=True).eval()
assert model.reidzoo_name == {SMALL!r} and tuple(model.pretrained_cfg["mean"]) == (0.5, 0.4, 0.3)
torch.save(model.state_dict(), {str(home / "state.pth")!r})
"""
    run(code)
    state = torch.load(home / "state.pth", weights_only=True)
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())


def test_timm_writes_what_timm_reads(tmp_path, x):
    """timm's own `save_for_hf` names the architecture by which it finds ours again."""
    model = timm.create_model(f"reidzoo_{SMALL}").eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))


def test_timm_pretrained_is_behind_the_licence(nothing_accepted):
    with pytest.raises(LicenseNotAcceptedError, match="reidzoo license accept reidzoo"):
        timm.create_model(f"reidzoo_{SMALL}", pretrained=True)


def test_timm_pretrained_loads_from_the_store(nothing_accepted, monkeypatch, tmp_path, x):
    monkeypatch.setenv("REIDZOO_ACCEPT_LICENSE", "reidzoo")
    model = reidzoo.create_model(SMALL).eval()
    file = export_official(model, tmp_path / "anything.pth")
    torch.save({"teacher": torch.load(file, weights_only=True)["teacher"]}, file)  # as the release does
    import_official(file, name=SMALL)
    for options in ({}, {"num_classes": 3}, {"features_only": True, "out_indices": (4,)}):
        again = timm.create_model(f"reidzoo_{SMALL}", pretrained=True, **options).eval()
        state = {key.removeprefix("model."): tensor for key, tensor in again.state_dict().items()}
        kept = {key for key in model.state_dict() if key in state}
        assert len(kept) > 390
        assert all(torch.equal(state[key], model.state_dict()[key]) for key in kept)
        assert again.weights_license == "reidzoo"


def test_timm_transform_is_ours():
    """timm builds from our configuration the transform that reidzoo uses: no crop, no other interpolation."""
    model = timm.create_model(f"reidzoo_{SMALL}", img_size=(128, 64))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 111, 3), dtype=np.uint8))
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model))(image)
    torch.testing.assert_close(theirs, reidzoo.create_transform(model)(image), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub folder with what torch.hub makes of a GitHub repository: the clone, which is not installed anywhere."""
    folder = tmp_path_factory.mktemp("hub")
    clone = folder / "someone_reidzoo_main"
    shutil.copytree(ROOT / "reidzoo", clone / "reidzoo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "hubconf.py", clone)
    return folder


def test_torch_hub(hub, tmp_path, nothing_accepted, run):
    """The clone's package goes before one that is installed: list, help, load, pretrained, arguments."""
    weights = save_model(reidzoo.create_model(SMALL), tmp_path / "w.safetensors")
    code = f"""
import json, torch
torch.hub.set_dir({str(hub)!r})
github, trust = "someone/reidzoo:main", {{"trust_repo": True, "skip_validation": True}}
names = torch.hub.list(github, **trust)
import reidzoo
clone = {str(hub / "someone_reidzoo_main")!r}
assert reidzoo.__file__.startswith(clone), reidzoo.__file__
assert sorted(names) == sorted(reidzoo.list_models()), names
assert "ResNet50-IBN" in torch.hub.help(github, "resnet50_ibn", **trust)
head = torch.hub.load(github, {SMALL!r}, head="bnneck", num_classes=5, **trust)
assert head.head.num_classes == 5
model = torch.hub.load(clone, {SMALL!r}, source="local", weights={str(weights)!r}, img_size=(64, 32)).eval()
assert model.pretrained_cfg["input_size"] == (3, 64, 32)
try:
    torch.hub.load(clone, {SMALL!r}, source="local", pretrained=True)
except reidzoo.ReidzooError as e:
    assert "license accept" in str(e), e
else:
    raise AssertionError("pretrained without a licence")
x = torch.rand(1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    print(json.dumps(model(x)[0, :5].tolist()))
"""
    out = run(code, tmp_path)
    model = reidzoo.create_model(SMALL, weights=weights).eval()
    with torch.inference_mode():
        expected = model(torch.rand(1, 3, 64, 32, generator=torch.Generator().manual_seed(0)))[0, :5]
    np.testing.assert_allclose(json.loads(out.splitlines()[-1]), expected.numpy(), atol=1e-6)
