"""A run from the outside, fine-tuning: the best network beside the last, boards, the bar, what stops it."""

from __future__ import annotations

import logging
import math
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reidzoo
from reidzoo import finetune
from reidzoo.cli.main import main
from reidzoo.data import Records, load_dataset
from reidzoo.errors import CheckpointError, ConfigError, CorruptImageError, DivergedError, TrainingError
from reidzoo.training._boards import boards
from reidzoo.training._checkpoint import RunFolder, load, save
from reidzoo.training._run import TrainResult
from reidzoo.training._tracking import read_history
from reidzoo.weights import read_metadata

MODEL = "timm/test_resnet"
JOB: dict[str, Any] = {
    "img_size": (32, 16),
    "epochs": 4,
    "batch_size": 12,
    "num_instances": 3,
    "warmup_epochs": 0,
    "lr": 0.5,
    "padding": 2,
    "num_workers": 0,
    "device": "cpu",
    "eval_every": 1,
    "keep_every": 2,
}


class Killed(Exception):  # noqa: N818
    """What ends a run from outside."""


class KillAt:
    """Ends a run at one of its network's training passes, from 1."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        self.left -= module.training
        if module.training and self.left == 0:
            raise Killed


def breaking(at: int) -> nn.Module:
    torch.manual_seed(0)
    model = reidzoo.create_model(MODEL, img_size=(32, 16))
    model.register_forward_pre_hook(KillAt(at))
    return model


@pytest.fixture(scope="module")
def stopped(people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, bytes]:
    """A run that was killed in its last epoch and went on, and its best network as it was when it was killed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(Killed):
        finetune(breaking(3 * 6 + 3), f"folder:{people}", output_dir=out, **JOB)
    before = (out / "best.safetensors").read_bytes()
    return finetune(breaking(0), f"folder:{people}", output_dir=out, **JOB), before


# The best network


def test_the_best_network_is_kept_beside_the_last(stopped: tuple[TrainResult, bytes], people: Path) -> None:
    result, before = stopped
    measured = [row["mAP"] for row in result.history]
    best = int(np.argmax(measured))
    assert measured[0] < measured[best], "else this test shows nothing"
    assert best < 3
    assert result.best is not None
    assert result.best.read_bytes() == before, "a run that goes on knows what was best before"
    header = read_metadata(result.best)
    assert (header["epoch"], float(header["mAP"])) == (str(best + 1), measured[best])
    assert (header["method"], header["data"]) == ("transreid", "folder")
    model = reidzoo.create_model(f"local-dir:{result.best}")
    assert not torch.equal(model.backbone.conv1[0].weight, result.model.backbone.conv1[0].weight)  # type: ignore[union-attr, index]
    evaluated = reidzoo.evaluate(model, f"folder:{people}", num_workers=0)
    assert evaluated.mAP == pytest.approx(measured[best], abs=1e-6)


def test_checkpoints_are_kept_beside_the_last(stopped: tuple[TrainResult, bytes]) -> None:
    folder = RunFolder(stopped[0].checkpoint.parent)
    assert sorted(file.name for file in folder.last.parent.iterdir()) == ["epoch0002.pt", "epoch0004.pt", "last.pt"]
    kept, last = load(folder.kept(4)), load(folder.last)
    assert load(folder.kept(2))["position"][0] == 2
    assert kept["position"] == last["position"]
    assert all(torch.equal(kept["method"][name], tensor) for name, tensor in last["method"].items())


def test_the_command_line_evaluates_it(
    stopped: tuple[TrainResult, bytes], people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = str(stopped[0].best)
    assert main(["evaluate", best, f"folder:{people}", "--num-workers", "0", "--device", "cpu"]) == 0
    assert f"{100 * float(read_metadata(best)['mAP']):.1f}" in capsys.readouterr().out


def test_overwrite_starts_without_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    run: dict[str, Any] = {"method": "bot", "config": {}}
    folder.open(run, resume="auto", overwrite=False)
    save(folder.last, {"position": (0, 0, 1)})
    folder.best.write_bytes(b"x")
    for place in (folder.tensorboard, folder.wandb):
        place.mkdir()
        (place / "events").write_bytes(b"x")
    assert not folder.open(run, resume="auto", overwrite=True)
    assert [file.name for file in folder.path.iterdir()] == ["config.json"]


# What a run shows


def test_the_bar_and_the_report(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"REIDZOO_PROGRESS": "1", "COLUMNS": "200", "LINES": "50"}.items():  # a wide terminal
        monkeypatch.setenv(name, value)
    words = ["finetune", MODEL, f"folder:{people}", "--output-dir", str(tmp_path / "run"), "--epochs", "1"]
    words += ["--img-size", "32x16", "--batch-size", "12", "--num-instances", "3", "--warmup-epochs", "0"]
    assert main([*words, "--num-workers", "0", "--device", "cpu", "--eval-every", "1"]) == 0
    shown = capsys.readouterr()
    numbers = r"loss=\d+\.\d{4}, accuracy=\d+\.\d%, lr=\d\.\d\de-\d\d, images/s=\d+"
    assert re.search(rf"transreid: +100%.* (\d)/\1 \[\d\d:\d\d<00:00, .*{numbers}\]", shown.err), shown.err
    assert "epoch 1 of 1" not in shown.err
    assert re.search(r"best +\S+best\.safetensors   \(mAP \d+\.\d, after epoch 1\)", shown.out), shown.out


def test_tensorboard_shows_each_step_once(stopped: tuple[TrainResult, bytes]) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = RunFolder(stopped[0].checkpoint.parent)
    board = accumulator.EventAccumulator(str(folder.tensorboard))
    board.Reload()
    shown = [(event.step, event.value) for event in board.Scalars("loss")]
    logged = [(row["step"], row["loss"]) for row in read_history(folder.metrics, "step")]
    assert len(logged) == stopped[0].history[-1]["step"]
    assert np.array(shown) == pytest.approx(np.array(logged))
    assert [event.value for event in board.Scalars("epoch/mAP")] == pytest.approx(
        [row["mAP"] for row in stopped[0].history]
    )


def test_nothing_is_sent_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    folder = RunFolder(tmp_path)
    for board in boards(folder, 0):
        board.close(failed=False)
    assert not folder.wandb.exists()
    assert not caplog.records
    monkeypatch.setenv("WANDB_PROJECT", "reid")
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with caplog.at_level(logging.WARNING, "reidzoo"):
        for board in boards(folder, 0):
            board.close(failed=False)
    assert "WANDB_PROJECT is set, but wandb is not installed, so the run is not sent: pip install wandb" in caplog.text


def test_wandb_without_its_server(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_PROJECT", "reid")
    monkeypatch.setenv("WANDB_MODE", "offline")
    job = {**JOB, "output_dir": tmp_path / "run", "epochs": 2}
    with pytest.raises(Killed):
        finetune(breaking(6 + 3), f"folder:{people}", **job)
    finetune(breaking(0), f"folder:{people}", **job)
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1, "two parts of one run"
    content = b"".join(file.read_bytes() for file in files)
    assert all(name in content for name in (b"epoch/mAP", b"accuracy", b"images_per_s"))


# What stops it


def test_the_batch_is_kept_when_an_epoch_ends_with_bad_weights(people: Path, tmp_path: Path) -> None:
    """The loss of the only step is finite, its update is not."""
    job = {**JOB, "batch_size": 72, "num_instances": 6, "lr": 1e30, "output_dir": tmp_path / "run"}
    with pytest.raises(DivergedError, match=r"weights are not finite after step 1, though the loss was"):
        finetune(MODEL, f"folder:{people}", **job)
    folder = RunFolder(tmp_path / "run")
    assert math.isfinite(read_history(folder.metrics, "step")[0]["loss"])
    batch = torch.load(folder.failed_batch, weights_only=True)
    assert (batch["step"], len(set(batch["paths"])), tuple(batch["views"][0].shape)) == (1, 72, (72, 3, 32, 16))


def test_an_image_that_is_damaged_while_a_run_goes_on(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = shutil.copytree(people, tmp_path / "data")
    job = {**JOB, "epochs": 2, "eval_every": 0, "lr": 0.01, "output_dir": tmp_path / "run"}
    with pytest.raises(Killed):
        finetune(breaking(6), f"folder:{data}", **job)
    for image in sorted((data / "train" / "0003").iterdir())[:5]:
        image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(CorruptImageError, match=r"cannot be decoded .*reidzoo data check DATA --decode"):
        finetune(breaking(0), f"folder:{data}", **job)
    with pytest.raises(CorruptImageError, match=r"5 of 72 training images cannot be read: .*--skip-corrupt"):
        finetune(breaking(0), f"folder:{data}", **job)
    with caplog.at_level(logging.WARNING, "reidzoo"):
        result = finetune(breaking(0), f"folder:{data}", skip_corrupt=True, **job)
    assert "left out 5 of 72 unreadable training images" in caplog.text
    assert len(result.history) == 2


def test_a_gpu_that_is_too_small(people: Path, tmp_path: Path) -> None:
    def full(module: nn.Module, inputs: Any) -> None:
        if len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model = breaking(0)
    model.register_forward_pre_hook(full)
    said = r"12 images at a time do not fit into the memory of cpu \(CUDA out of memory.*Set a smaller micro_batch"
    with pytest.raises(TrainingError, match=said):
        finetune(model, f"folder:{people}", output_dir=tmp_path / "run", **JOB)


def test_an_evaluation_that_fails_costs_no_training(people: Path, tmp_path: Path) -> None:
    """Damaged query images are met after the last step: once they are whole, the run goes on behind that step."""
    data = shutil.copytree(people, tmp_path / "data")
    job = {**JOB, "epochs": 1, "eval_every": 0, "lr": 0.01, "output_dir": tmp_path / "run"}
    image = sorted((data / "query").rglob("*.jpg"))[3]
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    with pytest.raises(CorruptImageError, match=image.name):
        finetune(breaking(0), f"folder:{data}", **job)
    folder = RunFolder(tmp_path / "run")
    assert load(folder.last)["position"] == (0, 5, 5)
    image.write_bytes(whole)
    result = finetune(breaking(1), f"folder:{data}", **job)  # it would be killed if it made a step
    at_once = finetune(breaking(0), f"folder:{data}", **{**job, "output_dir": tmp_path / "at_once"})
    assert result.metrics == at_once.metrics
    assert all(torch.equal(a, b) for a, b in zip(result.model.parameters(), at_once.model.parameters(), strict=True))
    assert result.history[0]["loss"] == at_once.history[0]["loss"]
    state = load(folder.last)
    assert state["position"] == (1, 0, 5)
    # Killed after the evaluation was written and before the next checkpoint: it is not written twice.
    save(folder.last, {**state, "position": (0, 5, 5)})
    log = folder.metrics.read_text().splitlines()
    assert finetune(breaking(1), f"folder:{data}", **job).metrics == at_once.metrics
    assert [line[:12] for line in folder.metrics.read_text().splitlines()] == [line[:12] for line in log]


def test_after_a_run_without_evaluation(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it says to type next works."""
    words = ["finetune", MODEL, f"folder:{people / 'train'}", "--output-dir", str(tmp_path / "run"), "--epochs", "1"]
    words += ["--img-size", "32x16", "--batch-size", "12", "--num-instances", "3", "--warmup-epochs", "0"]
    assert main([*words, "--num-workers", "0", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert re.search(r"^reidzoo: epoch 1 of 1: loss \d\.\d{4}$", shown.err, re.M), "no bar, but a line for each epoch"
    assert "timm/test_resnet has random weights: give --weights FILE, --pretrained, or a run's folder" in shown.err
    following = shlex.split(shown.out.splitlines()[-1].removeprefix("next"))
    assert following == ["reidzoo", "extract", str(tmp_path / "run"), f"folder:{people / 'train'}", "features.npy"]
    assert main([*following[1:-1], str(tmp_path / following[-1]), "--num-workers", "0", "--device", "cpu"]) == 0
    assert np.load(tmp_path / "features.npy").shape[0] == 72


def test_another_number_of_identities(stopped: tuple[TrainResult, bytes], people: Path, tmp_path: Path) -> None:
    for asked in ({"num_classes": 5}, {"head": "linear"}):
        with pytest.raises(ConfigError, match=r"has a 'bnneck' head for 12 identities, which is not the one asked for"):
            reidzoo.create_model(f"local-dir:{stopped[0].best}", **asked)
    data = load_dataset(f"folder:{people}")
    train = data.train
    fewer = replace(data, train=Records.from_columns(train.path, np.asarray(train.pid) // 2, train.camid))
    job = {**JOB, "epochs": 1, "eval_every": 0, "output_dir": tmp_path / "run"}
    finetune(MODEL, data, **job)
    with pytest.raises(CheckpointError, match=r"last\.pt does not fit this run: .*classifier\.weight.*--overwrite"):
        finetune(MODEL, fewer, **job)


def test_more_images_per_identity_than_there_are(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = {**JOB, "epochs": 1, "eval_every": 0, "batch_size": 24, "num_instances": 8, "output_dir": tmp_path / "run"}
    with caplog.at_level(logging.WARNING, "reidzoo"):
        result = finetune(MODEL, f"folder:{people}", **job)
    assert "num_instances is 8, but no identity has more than 6 images: each of them comes up several" in caplog.text
    assert result.history[0]["step"] == 4  # 12 identities, three at a time
    assert result.best is None
