"""What a run says of itself: its numbers, the collapse alarm, the probe on held-out images, the curves."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import reidzoo
from reidzoo import finetune, pretrain
from reidzoo.errors import ConfigError, DataError, DivergedError
from reidzoo.training._alarm import CollapseAlarm
from reidzoo.training._checkpoint import load
from reidzoo.training._curves import draw_curves
from reidzoo.training._run import RunFolder
from reidzoo.training._tracking import read_history

MODEL = "timm/test_vit"
JOB: dict[str, Any] = {
    "img_size": (32, 16),
    "epochs": 3,
    "warmup_epochs": 1.0,
    "batch_size": 12,
    "num_instances": ((0, 2), (2, 4)),
    "local_crops": 0,
    "output_dim": 32,
    "hidden_dim": 16,
    "num_workers": 0,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, RunFolder, float]:
    """A run that is evaluated after each epoch, and how long it took."""
    out, started = tmp_path_factory.mktemp("runs") / "run", time.perf_counter()
    result = pretrain(MODEL, f"folder:{people}", output_dir=out, eval_every=1, **JOB)
    return result, RunFolder(out), time.perf_counter() - started


def test_every_step_says_what_there_is_to_know(run: tuple[Any, RunFolder, float]) -> None:
    _, folder, seconds = run
    rows = read_history(folder.metrics, "step")
    known = {"step", "t", "loss", "teacher_entropy", "center_norm", "feature_std", "lr", "weight_decay", "momentum"}
    assert all(known | {"num_instances", "images_per_s", "memory_gb"} <= row.keys() for row in rows)
    for row in rows:  # the schedules as the paper has them, written out
        t, done = row["t"], row["t"] / 3
        peak = 5e-4 * 12 / 256
        lr = peak * t if t < 1 else 1e-6 + (peak - 1e-6) * (1 + math.cos(math.pi * (t - 1) / 2)) / 2
        assert row["lr"] == pytest.approx(lr)
        assert row["weight_decay"] == pytest.approx(0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * done)) / 2)
        assert row["momentum"] == pytest.approx(1 + (0.996 - 1) * (1 + math.cos(math.pi * done)) / 2)
        assert row["num_instances"] == (2 if t < 2 else 4)
    assert sum(12 / row["images_per_s"] for row in rows) < seconds, "slower than the clock"
    assert all(0.05 < row["memory_gb"] < 50 for row in rows)


def test_throughput_is_that_of_the_clock(people: Path, tmp_path: Path) -> None:
    """Images over seconds of an epoch, the evaluation left out."""
    pretrain(MODEL, f"folder:{people}", output_dir=tmp_path / "run", **{**JOB, "epochs": 1, "eval_every": 0})
    folder = RunFolder(tmp_path / "run")
    counted = sum(12 / row["images_per_s"] for row in read_history(folder.metrics, "step"))
    assert counted == pytest.approx(read_history(folder.metrics)[0]["seconds"], rel=0.3, abs=0.1)


def test_the_probe_is_what_evaluate_measures(run: tuple[Any, RunFolder, float], people: Path) -> None:
    result, folder, _ = run
    rows = read_history(folder.metrics)
    assert [set(row) >= {"mAP", "Rank-1", "Rank-5", "Rank-10", "mINP"} for row in rows] == [True] * 3
    expected = reidzoo.evaluate(reidzoo.create_model(f"local-dir:{folder.path}"), f"folder:{people}", num_workers=0)
    assert rows[-1]["mAP"] == pytest.approx(expected.mAP, abs=1e-6)
    assert result.metrics == {k: rows[-1][k] for k in result.metrics}
    assert result.metrics["mAP"] == rows[-1]["mAP"]


def test_the_probe_does_not_touch_the_run(run: tuple[Any, RunFolder, float], people: Path, tmp_path: Path) -> None:
    """The same weights without it, and with another data set for it."""
    result, _, _ = run
    other = reidzoo.data.write_synthetic(tmp_path / "other", identities=4, cameras=2, images=2, size=(32, 16))
    again = pretrain(
        MODEL, f"folder:{people}", output_dir=tmp_path / "run", probe=f"synthetic:{other}", eval_every=2, **JOB
    )
    assert [("mAP" in row) for row in again.history] == [False, True, True]
    assert again.metrics["mAP"] != result.metrics["mAP"]
    assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in result.model.state_dict().items())


def test_nothing_to_evaluate_on(people: Path, tmp_path: Path) -> None:
    bare = f"folder:{people / 'train'}"
    with pytest.raises(ConfigError, match=r"eval_every is 1, but folder has no query.*--probe"):
        pretrain(MODEL, bare, output_dir=tmp_path / "a", eval_every=1, **JOB)
    with pytest.raises(DataError, match=r"probe 'folder:.*' has 0 query and 0 gallery images.*reidzoo data check"):
        pretrain(MODEL, bare, output_dir=tmp_path / "b", probe=bare, **JOB)
    result = pretrain(MODEL, bare, output_dir=tmp_path / "c", **{**JOB, "epochs": 1})
    assert result.metrics == {}


def features(mean_cosine: float, width: int = 512) -> np.ndarray:
    """256 unit vectors, two of which have about that cosine."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, width)) / math.sqrt(width) * math.sqrt(1 - mean_cosine)
    x[:, 0] += math.sqrt(mean_cosine)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def entropy(logits: np.ndarray) -> float:
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum(1).mean())


@pytest.mark.parametrize(
    ("cosine", "spread", "collapsed"),
    [(0, 1.5, False), (0.96, 1.5, False), (0.96, 0.4, False), (0.999, 1.5, True), (0.5, 0.05, True), (0.5, 1e4, True)],
    ids=["healthy", "new ResNet", "soft teacher", "equal features", "uniform teacher", "certain teacher"],
)
def test_what_counts_as_collapsed(cosine: float, spread: float, collapsed: bool) -> None:
    alarm = CollapseAlarm.of_distillation(width=512, outputs=4096, images=64, start=1, patience=2)
    logits = np.random.default_rng(1).standard_normal((64, 4096)) * spread
    row = {"t": 1.5, "feature_std": float(features(cosine).std(0).mean()), "teacher_entropy": entropy(logits)}
    assert alarm.see({"step": 1, **row}) == ""
    found = alarm.see({"step": 2, **row})
    assert ("have collapsed, for 2 steps up to step 2: " in found) == collapsed
    assert bool(found) == collapsed


def test_alarm_waits_warns_and_stops(caplog: pytest.LogCaptureFixture) -> None:
    good, bad = {"feature_std": 0.04}, {"feature_std": 1e-6}

    def see(steps: int, row: dict[str, float], t: float = 5.0) -> list[int]:
        """The steps, from 1, at which the run should stop."""
        return [i for i in range(1, steps + 1) if alarm.see({"step": 7, "t": t, **row})]

    for patience in (0, 120):
        caplog.clear()
        alarm = CollapseAlarm({"feature_std": (0.002, math.inf)}, start=2.0, patience=patience)
        with caplog.at_level(logging.WARNING, "reidzoo"):
            assert see(1000, bad, t=1.9) == []  # warm-up
            assert see(49, bad) + see(1, good) + see(49, bad) == []
            assert not caplog.records
            assert see(60, bad) == []
            assert ["1e-06, expected at least 0.002" in r.message for r in caplog.records] == [True]
            assert see(1, good) == []
            assert "healthy again" in caplog.records[-1].message
            assert see(5000, bad) == ([patience] if patience else [])
    single = CollapseAlarm.of_distillation(width=64, outputs=64, images=1, start=0, patience=1)
    assert single.see({"step": 1, "t": 0.0, "feature_std": 0.0, "teacher_entropy": 2.0}) == ""


def test_a_collapsed_run_stops(people: Path, tmp_path: Path) -> None:
    """A teacher that is made to say nothing: every output has the same probability at this temperature."""
    job = {**JOB, "epochs": 4, "num_instances": 2, "teacher_temp": 100.0, "teacher_temp_start": 100.0}
    expected = r"for 10 steps up to step 15: teacher_entropy is 3.466, expected 0.003466 to 3.448.*failed\.pt.*lower lr"
    with pytest.raises(DivergedError, match=expected):
        pretrain(MODEL, f"folder:{people}", output_dir=tmp_path / "run", collapse_steps=10, **job)
    folder = RunFolder(tmp_path / "run")
    rows = read_history(folder.metrics, "step")
    assert [row["t"] for row in rows][5:6] == [1.0]  # the end of the warm-up, ten steps before
    assert load(folder.failed)["position"][2] >= 15
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert not folder.model.exists()
    on = pretrain(MODEL, f"folder:{people}", output_dir=tmp_path / "run", collapse_steps=0, **job)
    assert len(on.history) == 4


def test_curves(run: tuple[Any, RunFolder, float], people: Path, tmp_path: Path) -> None:
    """A panel for each number that there is, four in a row; the points of a long run are means."""
    _, folder, _ = run
    assert Image.open(folder.curves).size == (4 * 920, 80 + 3 * 640)  # loss .. images/s, and the probe: ten
    finetune(MODEL, f"folder:{people}", output_dir=tmp_path / "f", img_size=(32, 16), epochs=1, batch_size=12,
             num_instances=3, num_workers=0, device="cpu")  # fmt: skip
    assert Image.open(RunFolder(tmp_path / "f").curves).size == (4 * 920, 80 + 640)  # loss, accuracy, lr, images/s
    from reidzoo.training._curves import _line

    x, y = _line([{"step": i, "loss": float(i % 2)} for i in range(10_000)], "loss")
    assert (len(x), x[0], x[-1]) == (500, 9.5, 9989.5)
    assert set(y) == {0.5}
    draw_curves([{"step": 1, "loss": 1.0}], [], tmp_path / "one.png", "one")
    assert Image.open(tmp_path / "one.png").size == (920, 80 + 640)
    rows = [{"step": 1, "t": 0.0, "loss": 1.0, "id_loss": 0.5, "center": 900.0, "circle": 2.0, "memory_gb": 1.0}]
    draw_curves(rows, [], tmp_path / "more.png", "losses of one method have panels of their own")
    assert Image.open(tmp_path / "more.png").size == (3 * 920, 80 + 640)


def test_the_log_is_json_that_others_read(run: tuple[Any, RunFolder, float]) -> None:
    for line in run[1].metrics.read_text().splitlines():
        assert all(isinstance(v, (int, float)) for v in json.loads(line).values())
