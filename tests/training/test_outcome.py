"""What a run leaves behind is read by others: `create_model`, and the original code for fine-tuning and training."""

from __future__ import annotations

import argparse
import json
import zlib
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import reidzoo
from reidzoo import finetune, pretrain
from reidzoo.cli.main import main
from reidzoo.data import load_dataset
from reidzoo.errors import CheckpointError, ConfigError
from reidzoo.models import to_official
from reidzoo.training._checkpoint import RunFolder, load
from reidzoo.training._distributed import World
from reidzoo.training._official import export_training, take_over
from reidzoo.training.configs import CIONConfig
from reidzoo.training.methods.cion import CION
from reidzoo.weights import read_metadata

SIZE = (64, 32)
JOB: dict[str, Any] = {
    "img_size": SIZE,
    "epochs": 1,
    "warmup_epochs": 0.0,
    "batch_size": 12,
    "num_instances": 2,
    "local_crops": 0,
    "output_dim": 32,
    "hidden_dim": 16,
    "freeze_last_layer": 0,
    "num_workers": 0,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def runs(people: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """A run of a network with BatchNorm, and of one without."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("resnet18", "edgenext_x_small"):
        pretrain(name, f"folder:{people}", output_dir=root / name, **JOB)
    return {name: RunFolder(root / name) for name in ("resnet18", "edgenext_x_small")}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_weights_say_where_they_are_from(runs: dict[str, RunFolder], people: Path) -> None:
    header = read_metadata(runs["resnet18"].path)
    assert (header["method"], header["data"], header["images"], header["ranks"]) == ("cion", "folder", "72", "1")
    assert (header["torch"], header["reidzoo_version"]) == (torch.__version__, reidzoo.__version__)
    settings = json.loads(header["settings"])
    assert (settings["lr"], settings["img_size"], settings["batch_size"]) == (5e-4, list(SIZE), 12)
    assert str(people) not in json.dumps(header), "folders of this machine are nobody's business"
    assert read_metadata(runs["resnet18"].last) == header, "the checkpoint and the weights say the same"


@pytest.mark.parametrize("place", ["last.pt", "folder of a run that goes on", "by name"])
def test_a_checkpoint_is_a_model(runs: dict[str, RunFolder], place: str, tmp_path: Path) -> None:
    """It is the teacher that comes out, and not the student beside it."""
    folder = runs["resnet18"]
    state = load(folder.last)["method"]
    if place == "last.pt":
        model = reidzoo.create_model(f"local-dir:{folder.last}")
        assert model.pretrained_cfg["input_size"] == (3, *SIZE)
    elif place == "by name":
        model = reidzoo.create_model("resnet18", weights=folder.last)
    else:
        unfinished = tmp_path / "run" / "checkpoints"
        unfinished.mkdir(parents=True)
        (unfinished / "last.pt").write_bytes(folder.last.read_bytes())
        model = reidzoo.create_model(f"local-dir:{tmp_path / 'run'}")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state["teacher"][f"backbone.{name}"])
    assert not torch.equal(model.conv1.weight, state["student"]["backbone.conv1.weight"])


def test_a_fine_tuned_checkpoint_keeps_its_head(people: Path, tmp_path: Path) -> None:
    job = {"img_size": (32, 16), "epochs": 1, "batch_size": 12, "num_instances": 3, "num_workers": 0, "device": "cpu"}
    result = finetune("timm/test_vit", f"folder:{people}", output_dir=tmp_path / "run", **job)
    folder = RunFolder(tmp_path / "run")
    again = reidzoo.create_model(f"local-dir:{folder.last}")
    assert same(again.state_dict(), result.model.state_dict())
    assert tuple(again.backbone.pretrained_cfg["mean"]) == (0.5, 0.5, 0.5)
    with pytest.raises(CheckpointError, match="method 'transreid', which has no student"):
        export_training(folder.path, tmp_path / "x.pth")


def original_loader(path: Path, own: dict[str, Tensor], *, cut: int) -> dict[str, Tensor]:
    """How the released fine-tuning code reads: the teacher's keys that contain "backbone", a prefix cut by its length.

    Every tensor of the network has to be there (pre-training spec, E.0.3 and E.1).
    """
    teacher = torch.load(path, map_location="cpu", weights_only=True)["teacher"]
    read = {key[cut:]: tensor for key, tensor in teacher.items() if "backbone" in key}
    assert set(read) == set(own)
    return read


@pytest.mark.parametrize(("name", "cut"), [("resnet18", 16), ("edgenext_x_small", 9)])
def test_export_is_what_the_original_code_loads(
    runs: dict[str, RunFolder], name: str, cut: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.pth"
    assert main(["weights", "export", str(runs[name].path), "--layout", "official", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    trained = reidzoo.create_model(f"local-dir:{runs[name].path}")
    weights = load_file(runs[name].model)
    if name == "resnet18":  # the official network has torchvision's names, and those are timm's
        read = original_loader(out, trained.state_dict(), cut=cut)
        assert {"conv1.weight", "layer1.0.bn2.running_var", "layer4.1.conv2.weight"} <= read.keys()
        assert same(read, weights)
    else:  # the original's names, as its paper's code writes them
        named = {"downsample_layers.0.0.weight", "stages.0.0.pwconv1.weight", "norm.weight"}
        read = torch.load(out, weights_only=True)["teacher"]
        assert {f"backbone.{key}" for key in named} <= read.keys()
        assert sorted(t.sum().item() for t in read.values()) == sorted(t.sum().item() for t in weights.values())
    assert same(reidzoo.create_model(name, weights=out).state_dict(), trained.state_dict())
    said = torch.load(out, weights_only=True)["reidzoo"]
    assert (said["model"], said["method"], said["data"]) == (name, "cion", "folder")


class Original(nn.Module):
    """Student of the original: official names, its own order of the parameters, torch's own weight normalisation."""

    def __init__(self, folder: RunFolder, spelling: str = "new") -> None:
        super().__init__()
        self.backbone = reidzoo.create_model(f"local-dir:{folder.path}")
        self.head = nn.Module()
        widths = (self.backbone.embed_dim, 16, 16, 256)
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.head.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.head.last_layer = nn.utils.parametrizations.weight_norm(nn.Linear(256, 32, bias=False))
        self.gain = self.head.last_layer.parametrizations.weight.original0
        self.gain.data.fill_(1)
        self.gain.requires_grad = False
        self.spelling = spelling

    def named(self) -> dict[str, Tensor]:
        """Its tensors, the last first: no order but that of the file itself counts."""
        own = self.state_dict(keep_vars=True)
        del own["gain"]
        official = to_official({k[9:]: t for k, t in own.items() if k.startswith("backbone.")}, self.backbone)
        named = {f"backbone.{k}": t for k, t in official.items()} | {k: t for k, t in own.items() if "head." in k[:5]}
        if self.spelling == "old":
            old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
            for new, short in old.items():
                named = {k.replace(new, short): t for k, t in named.items()}
        return dict(reversed(list(named.items())))

    def adamw(self) -> torch.optim.AdamW:
        learning = [(n, t) for n, t in self.named().items() if isinstance(t, nn.Parameter) and t.requires_grad]
        vectors = [t for n, t in learning if n.endswith(".bias") or t.ndim == 1]
        others = [t for n, t in learning if not (n.endswith(".bias") or t.ndim == 1)]
        return torch.optim.AdamW([{"params": others}, {"params": vectors, "weight_decay": 0.0}], lr=1e-3)

    def checkpoint(self, path: Path, optimizer: torch.optim.Optimizer, *, epoch: int) -> Path:
        state = OrderedDict((f"module.{k}", t.detach()) for k, t in self.named().items())
        loss = {"center": torch.linspace(-1, 1, 32).reshape(1, 32)}
        content = {"student": state, "teacher": state, "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save({**content, "args": argparse.Namespace(arch="resnet18"), "Loss": loss}, path)
        return path


def step(named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, seed: int) -> None:
    """A step with gradients that depend on the names alone."""
    for name, p in named.items():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + zlib.crc32(name.encode())))
    optimizer.step()


@pytest.mark.parametrize("spelling", ["new", "old"])
@pytest.mark.parametrize("name", ["resnet18", "edgenext_x_small"])
def test_moments_are_those_of_their_parameters(
    runs: dict[str, RunFolder], people: Path, tmp_path: Path, name: str, spelling: str
) -> None:
    """One more step of the original's optimiser and of ours, with the same gradients, from the same checkpoint."""
    torch.manual_seed(0)
    student = Original(runs[name], spelling)
    optimizer = student.adamw()

    def ours(module: nn.Module) -> dict[str, nn.Parameter]:
        short = {n.replace("parametrizations.weight.original1", "weight_v"): p for n, p in module.named_parameters()}
        return {n: p for n, p in short.items() if p.requires_grad}

    for seed in (1, 2):
        step(ours(student), optimizer, seed)
    file = student.checkpoint(tmp_path / "checkpoint.pth", optimizer, epoch=7)
    torch.manual_seed(5)
    config = CIONConfig(**{**JOB, "epochs": 9})
    backbone = reidzoo.create_model(name, img_size=SIZE)
    method = CION(backbone, load_dataset(f"folder:{people}"), config, World(0, 1, torch.device("cpu")))
    assert take_over(method, file) == 7
    assert torch.equal(method.criterion.center[0], torch.linspace(-1, 1, 32))
    for group, theirs in zip(method.optimizer.param_groups, optimizer.param_groups, strict=True):
        group.update(lr=theirs["lr"], weight_decay=theirs["weight_decay"])
    step(ours(student), optimizer, 3)
    step(ours(method.network), method.optimizer, 3)
    expected = ours(student)
    assert expected.keys() == ours(method.network).keys()
    for key, p in ours(method.network).items():
        torch.testing.assert_close(p, expected[key], rtol=1e-5, atol=1e-7)


def test_an_original_run_goes_on(runs: dict[str, RunFolder], people: Path, tmp_path: Path) -> None:
    """At a rate of zero its last epoch changes no weight; the epochs before it are not done again."""
    torch.manual_seed(0)
    student = Original(runs["edgenext_x_small"])
    file = student.checkpoint(tmp_path / "checkpoint.pth", student.adamw(), epoch=2)
    job = {**JOB, "epochs": 3, "lr": 0.0, "min_lr": 0.0, "teacher_momentum": 1.0, "start_from": str(file)}
    result = pretrain("edgenext_x_small", f"folder:{people}", output_dir=tmp_path / "run", **job)
    assert [row["epoch"] for row in result.history] == [3]
    assert same(result.model.state_dict(), student.backbone.state_dict())
    state = load(RunFolder(tmp_path / "run").last)
    assert state["position"][:2] == (3, 0)
    last = student.head.last_layer.parametrizations.weight.original1
    assert torch.equal(state["method"]["student"]["head.last_layer.weight_v"], last)


def test_a_run_s_checkpoint_in_the_original_layout(runs: dict[str, RunFolder], people: Path, tmp_path: Path) -> None:
    """Out and in again is the same, under the original's names and prefixes."""
    for name, prefix in (("resnet18", "module."), ("edgenext_x_small", "")):
        out = tmp_path / f"{name}.pth"
        assert main(["weights", "export", str(runs[name].path), "--layout", "official-training", str(out)]) == 0
        content = torch.load(out, weights_only=True)
        assert {"student", "teacher", "Loss", "epoch"} <= content.keys()
        assert content["epoch"] == 1
        assert all(key.startswith(("module.backbone.", "module.head.")) for key in content["student"])
        assert all(key.startswith((f"{prefix}backbone.", f"{prefix}head.")) for key in content["teacher"])
        assert f"{prefix}head.last_layer.weight_g" in content["teacher"]
        backbone = reidzoo.create_model(name, img_size=SIZE)
        config = CIONConfig(**{**JOB, "epochs": 2})
        method = CION(backbone, load_dataset(f"folder:{people}"), config, World(0, 1, torch.device("cpu")))
        assert take_over(method, out) == 1
        saved = load(runs[name].last)["method"]
        assert all(same(method.state_dict()[part], saved[part]) for part in ("student", "teacher", "loss"))


def test_what_is_no_training_checkpoint(runs: dict[str, RunFolder], people: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pth"
    main(["weights", "export", str(runs["resnet18"].path), str(out)])
    with pytest.raises(CheckpointError, match=r"not a training checkpoint.*reidzoo.create_model\(NAME, weights="):
        pretrain("resnet18", f"folder:{people}", output_dir=tmp_path / "a", start_from=str(out), **JOB)
    main(["weights", "export", str(runs["resnet18"].path), "--layout", "official-training", str(out)])
    with pytest.raises(ConfigError, match="has 1 finished epochs, and epochs is 1: expected more than 1"):
        pretrain("resnet18", f"folder:{people}", output_dir=tmp_path / "b", start_from=str(out), **JOB)
    job = {**JOB, "output_dim": 64, "epochs": 2}
    with pytest.raises(CheckpointError, match="does not fit resnet18 with output_dim 64"):
        pretrain("resnet18", f"folder:{people}", output_dir=tmp_path / "c", start_from=str(out), **job)
