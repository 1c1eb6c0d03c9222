"""TransReID's options for ViTs in a run: jigsaw patches, cameras, overlapping patches."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import reidzoo
from reidzoo import finetune
from reidzoo.data import load_dataset
from reidzoo.errors import ConfigError
from reidzoo.models.heads import HeadOutput
from reidzoo.training._distributed import World
from reidzoo.training._engine import Progress
from reidzoo.training.configs import TransReIDConfig
from reidzoo.training.losses import batch_hard_triplet
from reidzoo.training.methods.transreid import TransReID

JOB: dict[str, Any] = {
    "img_size": (64, 32),
    "epochs": 3,
    "batch_size": 12,
    "num_instances": 3,
    "warmup_epochs": 1,
    "lr": 0.05,
    "padding": 2,
    "num_workers": 0,
    "device": "cpu",
}
START = Progress(0, 0, 1, 0)


def vit(name: str = "transreid_ssl_vit_small") -> torch.nn.Module:
    torch.manual_seed(0)
    return reidzoo.create_model(name, depth=2, embed_dim=32, num_heads=2)


def method(people: Path, **settings: Any) -> TransReID:
    data = load_dataset(f"folder:{people}")
    return TransReID(vit(), data, TransReIDConfig(**{**JOB, **settings}), World(0, 1, torch.device("cpu")))


def test_all_options_together(people: Path, tmp_path: Path) -> None:
    model = vit()
    before = model.state_dict()["pos_embed"].clone()
    options: dict[str, Any] = {"jpm": True, "sie": 3.0, "stride": 8}
    result = finetune(model, f"folder:{people}", output_dir=tmp_path, **options, **{**JOB, "epochs": 6})
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    trained: Any = result.model
    assert (trained.head.name, trained.embed_dim, trained.backbone.cameras.tolist()) == ("jpm", 160, [1, 2])
    assert trained.backbone.pos_embed.shape == (1, 1 + 7 * 3, 32)
    assert torch.equal(model.state_dict()["pos_embed"], before)
    assert not model.takes_cameras
    again = reidzoo.create_model(f"local-dir:{tmp_path}").eval()
    x, camids = torch.randn(2, 3, 64, 32), torch.tensor([2, 1])
    assert torch.equal(again(x, camids), trained(x, camids))
    evaluated = reidzoo.evaluate(again, f"folder:{people}", num_workers=0)
    assert evaluated.mAP == pytest.approx(result.metrics["mAP"], abs=1e-6)


def test_lists_weigh_the_global_branch_as_much_as_all_others(people: Path) -> None:
    run = method(people, jpm=True, id_weight=2.0, triplet_weight=3.0)
    torch.manual_seed(0)
    pids = torch.arange(4).repeat_interleave(3)
    out = HeadOutput([torch.randn(12, 12) for _ in range(5)], [torch.randn(12, 8) for _ in range(5)])
    terms = run.terms(out, pids, START)
    found = sum(float(weight * value) for weight, value in terms.values())
    ids = [float(F.cross_entropy(logits, pids)) for logits in out.logits]
    triplets = [float(batch_hard_triplet(feature, pids)) for feature in out.features]
    expected = sum(w * (0.5 * v[0] + 0.5 * np.mean(v[1:])) for w, v in ((2, ids), (3, triplets)))
    assert found == pytest.approx(expected, rel=1e-5)


def test_images_come_with_their_cameras(people: Path) -> None:
    run = method(people, sie=1.5)
    records, seen = load_dataset(f"folder:{people}").train, []
    backbone: Any = run.network.backbone
    assert backbone.sie_weight == 1.5
    labels = [run.dataset[row][1] for row in (0, 1, 40)]
    assert [tuple(label.tolist()) for label in labels] == [
        (records.relabel().pid[row], records.camid[row]) for row in (0, 1, 40)
    ]
    with backbone.register_forward_pre_hook(lambda _, args: seen.append(args)):
        views = [torch.randn(12, 3, 64, 32)]
        pids, camids = torch.arange(4).repeat_interleave(3), 1 + torch.arange(12) % 2
        logged = run.loss(run.network, views, torch.stack([pids, camids], 1), START)
    assert torch.equal(seen[0][1], camids)
    logged["loss"].backward()
    assert backbone.sie_embed.grad.abs().sum((1, 2)).gt(0).all()


def test_without_options_nothing_changes(people: Path) -> None:
    """The network of the plain recipe at its own size has the tensors that it was given."""
    run = method(people, img_size=(256, 128))
    backbone, given = run.network.backbone, vit()
    assert backbone.state_dict().keys() == given.state_dict().keys()
    assert all(torch.equal(t, given.state_dict()[key]) for key, t in backbone.state_dict().items())
    assert isinstance(run.dataset[0][1], int)
    # At another one, the positions move to its grid, and are trained there.
    assert method(people).network.backbone.pos_embed.shape == (1, 1 + 4 * 2, 32)


def test_positions_of_a_plain_vit_move_once(people: Path, tmp_path: Path) -> None:
    """A ViT of timm, built for its weights' size, is trained at the grid of the run: bilinearly, as in TransReID."""
    torch.manual_seed(0)
    model: Any = reidzoo.create_model("timm/test_vit", img_size=(64, 64))
    job = {**JOB, "epochs": 1, "lr": 0.0, "optimizer": "sgd"}
    trained: Any = finetune(model, f"folder:{people}", output_dir=tmp_path, **job).model
    table = model.pos_embed.detach()
    grid = F.interpolate(table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2), (4, 2), mode="bilinear")
    expected = torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    assert torch.equal(trained.backbone.pos_embed, expected)
    again = reidzoo.create_model(f"local-dir:{tmp_path}").eval()
    for size in ((64, 32), (96, 48)):
        x = torch.randn(2, 3, *size)
        assert torch.equal(again(x), trained(x))


def test_the_copied_block_rests_with_the_backbone(people: Path) -> None:
    run = method(people, jpm=True, freeze_epochs=1)
    labels = torch.arange(4).repeat_interleave(3)
    for epoch, learns in ((0, False), (1, True)):
        run.set_rates(progress := Progress(epoch, 0, 1, 0))
        run.loss(run.network, [torch.randn(12, 3, 64, 32)], labels, progress)["loss"].backward()
        run.before_step(progress)
        head: Any = run.network.head
        assert (head.b2[1].weight.grad is not None) == learns
        assert head.necks[0].classifier.weight.grad is not None


def test_refusals(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"'timm/test_resnet' is no ViT with a class token"):
        finetune("timm/test_resnet", f"folder:{people}", output_dir=out, jpm=True, **{**JOB, "img_size": (32, 16)})
    with pytest.raises(ConfigError, match=r"jpm has features of its own: leave pool out"):
        finetune(vit(), f"folder:{people}", output_dir=out, jpm=True, pool="gem", **JOB)
    with pytest.raises(ConfigError, match=r"sie is -1"):
        finetune(vit(), f"folder:{people}", output_dir=out, sie=-1.0, **JOB)
    nowhere = tmp_path / "data"
    for split in ("train", "query", "gallery"):
        for image in sorted((people / split).glob("000[0-3]/*")):
            target = nowhere / split / image.parent.name / f"{image.stem.rpartition('_')[2]}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, target)
    with pytest.raises(ConfigError, match=r"sie is 3, but of none of the 24 training images the camera is known"):
        finetune(vit(), f"folder:{nowhere}", output_dir=out, sie=3.0, **JOB)
