"""Fine-tuning from the outside: what is trained, what comes back, what is refused."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import reidzoo
from reidzoo import finetune, pretrain
from reidzoo.errors import ConfigError, CorruptImageError, DataError, TrainingError, UnknownModelError
from reidzoo.training._run import RunFolder
from reidzoo.training._tracking import read_history
from reidzoo.weights import read_metadata

MODEL = "timm/test_resnet"
JOB: dict[str, Any] = {
    "img_size": (32, 16),
    "epochs": 6,
    "batch_size": 12,
    "num_instances": 3,
    "warmup_epochs": 1,
    "lr": 0.02,
    "padding": 2,
    "num_workers": 0,
    "device": "cpu",
}
PRE: dict[str, Any] = {
    "img_size": (32, 16),
    "epochs": 1,
    "batch_size": 12,
    "num_instances": 2,
    "local_crops": 0,
    "output_dim": 32,
    "hidden_dim": 16,
    "num_workers": 0,
    "device": "cpu",
}


def test_it_learns_and_the_caller_keeps_the_model(people: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = reidzoo.create_model(MODEL, img_size=(32, 16))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = finetune(model, f"folder:{people}", output_dir=tmp_path / "run", eval_every=3, **JOB)
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]
    assert [("mAP" in row) for row in result.history] == [False, False, True, False, False, True]
    assert set(result.metrics) == {"mAP", "Rank-1", "Rank-5", "Rank-10", "mINP"}
    assert result.metrics["mAP"] > reidzoo.evaluate(model, f"folder:{people}", num_workers=0).mAP
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    trained = result.model.backbone.state_dict()
    assert all(not torch.equal(before[k], trained[k]) for k, _ in model.named_parameters())
    curves = tmp_path / "run" / "curves.png"
    assert curves.read_bytes()[:4] == b"\x89PNG"


def test_the_file_is_the_model(people: Path, tmp_path: Path) -> None:
    result = finetune(MODEL, f"folder:{people}", output_dir=tmp_path / "run", **{**JOB, "epochs": 1})
    again = reidzoo.create_model(f"local-dir:{tmp_path / 'run'}").eval()
    x = torch.randn(3, 3, 32, 16)
    torch.testing.assert_close(again(x), result.model(x))
    assert again.head.classifier.weight.shape[0] == 12
    # The network wants the normalisation that it was trained with.
    assert tuple(again.backbone.pretrained_cfg["mean"]) == (0.5, 0.5, 0.5)
    assert tuple(again.backbone.pretrained_cfg["input_size"]) == (3, 32, 16)
    evaluated = reidzoo.evaluate(again, f"folder:{people}", num_workers=0)
    assert evaluated.mAP == pytest.approx(result.metrics["mAP"], abs=1e-6)


def test_pretrained_backbone_is_trained_on(people: Path, tmp_path: Path) -> None:
    """Every weight of a pre-trained backbone moves in fine-tuning: nothing comes out of pre-training frozen."""
    pre = pretrain(MODEL, f"folder:{people}", output_dir=tmp_path / "pre", **PRE)
    fine = finetune(pre.model, f"folder:{people}", output_dir=tmp_path / "fine", **{**JOB, "epochs": 1})
    trained = dict(fine.model.backbone.named_parameters())
    for name, p in pre.model.named_parameters():
        assert not torch.equal(p, trained[name]), name
    again = reidzoo.create_model(f"local-dir:{tmp_path / 'pre'}").state_dict()
    assert all(torch.equal(again[k], v) for k, v in pre.model.state_dict().items())


def test_the_licence_of_the_weights_goes_along(people: Path, tmp_path: Path) -> None:
    """What was derived from licensed weights is under their licence, through both stages and from file to file."""
    model = reidzoo.create_model(MODEL, img_size=(32, 16))
    assert model.weights_license == ""
    model.weights_license = "reidzoo"
    pre = pretrain(model, f"folder:{people}", output_dir=tmp_path / "pre", **PRE)
    read_back = reidzoo.create_model(f"local-dir:{tmp_path / 'pre'}")
    fine = finetune(read_back, f"folder:{people}", output_dir=tmp_path / "fine", **{**JOB, "epochs": 1})
    assert pre.model.weights_license == read_back.weights_license == fine.model.backbone.weights_license == "reidzoo"
    assert read_metadata(fine.checkpoint)["license"] == "reidzoo"


def test_micro_batches_add_up(people: Path, tmp_path: Path) -> None:
    """Without BatchNorm, centre and gradients of two halves are those of the whole batch."""
    small = {**PRE, "img_size": (64, 32), "epochs": 2, "num_instances": 2, "output_dim": 16}
    losses = []
    for micro in (0, 6):
        out = tmp_path / str(micro)
        pretrain("timm/test_convnext", f"folder:{people}", output_dir=out, micro_batch=micro, **small)
        losses.append([row["loss"] for row in read_history(RunFolder(out).metrics, "step")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(set(losses[0])) > 3


def test_corrupt_image_stops_before_training_or_is_left_out(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(people, data)
    broken = sorted((data / "train" / "0003").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(CorruptImageError, match=rf"1 of 72 .*{broken.name}.*--skip-corrupt"):
        finetune(MODEL, f"folder:{data}", output_dir=tmp_path / "run", **JOB)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    with caplog.at_level(logging.WARNING, "reidzoo"):
        finetune(MODEL, f"folder:{data}", output_dir=tmp_path / "run", skip_corrupt=True, **{**JOB, "epochs": 1})
    assert "left out 1 of 72 unreadable training images" in caplog.text
    assert json.loads((tmp_path / "run" / "images.json").read_text())["corrupt"][0][0] == 18


def test_a_loss_that_is_not_finite_stops_the_run(people: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+.*last\.pt.*lower lr"):
        finetune(MODEL, f"folder:{people}", output_dir=tmp_path / "run", **{**JOB, "lr": 1e12})
    rows = read_history(tmp_path / "run" / "metrics.jsonl", "step")
    assert any(not math.isfinite(row["loss"]) for row in rows)


def test_refusals_come_before_anything_is_written(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UnknownModelError, match="resnet50"):
        finetune("resnet5o", f"folder:{people}", output_dir=out, **JOB)
    with pytest.raises(DataError, match=str(tmp_path / "nowhere")):
        finetune(MODEL, f"folder:{tmp_path / 'nowhere'}", output_dir=out, **JOB)
    with pytest.raises(ConfigError, match="'batch_size'"):
        finetune(MODEL, f"folder:{people}", output_dir=out, batchsize=3)
    with pytest.raises(ConfigError, match="embed_dim"):
        finetune(torch.nn.Flatten(), f"folder:{people}", output_dir=out, **JOB)
    assert not out.exists()


def test_too_few_identities_for_a_batch(people: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs 16 identities; the data have 12"):
        finetune(MODEL, f"folder:{people}", output_dir=tmp_path / "x", **{**JOB, "batch_size": 48})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu(people: Path, tmp_path: Path, precision: str) -> None:
    job = {**JOB, "device": "cuda", "precision": precision}
    result = finetune(MODEL, f"folder:{people}", output_dir=tmp_path / "run", **job)
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]
    pre = {**PRE, "device": "cuda", "precision": precision, "local_crops": 2, "local_size": (16, 16)}
    assert math.isfinite(pretrain(MODEL, f"folder:{people}", output_dir=tmp_path / "pre", **pre).history[-1]["loss"])
