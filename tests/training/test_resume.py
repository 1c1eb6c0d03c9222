"""A run that is killed and started again ends with the same bits as one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reidzoo import finetune, pretrain
from reidzoo.training._checkpoint import RunFolder, load

COMMON: dict[str, Any] = {"img_size": (32, 16), "seed": 3, "device": "cpu", "checkpoint_every_steps": 2}
JOBS: dict[str, dict[str, Any]] = {
    "pretrain": {
        **COMMON,
        "epochs": 3,
        "batch_size": 12,
        "num_instances": ((0, 2), (1, 4)),
        "local_crops": 2,
        "local_size": (16, 16),
        "output_dim": 64,
        "hidden_dim": 32,
    },
    "finetune": {**COMMON, "epochs": 4, "batch_size": 12, "num_instances": 3, "warmup_epochs": 1},
}
# A network with everything that carries state or draws random numbers: BatchNorm, stochastic depth.
MODEL = "timm/test_efficientnet"
SCRIPT = """
import json, sys, torch, reidzoo
torch.set_num_threads(1)
stage, data, out, config = sys.argv[1:]
if __name__ == "__main__":
    getattr(reidzoo, stage)("timm/test_efficientnet", data, output_dir=out, num_workers=2, config=json.loads(config))
"""


def uninterrupted(stage: str, data: str, out: Path) -> RunFolder:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        {"pretrain": pretrain, "finetune": finetune}[stage](MODEL, data, output_dir=out, num_workers=0, **JOBS[stage])
    finally:
        torch.set_num_threads(threads)
    return RunFolder(out)


def killed_after(steps: int, stage: str, data: str, out: Path) -> None:
    """Start the run in a process of its own and kill it, and its loader workers, when `steps` have been logged."""
    arguments = [sys.executable, "-c", SCRIPT, stage, data, str(out), json.dumps(JOBS[stage])]
    with subprocess.Popen(arguments, start_new_session=True) as process:
        log, last = RunFolder(out).metrics, RunFolder(out).last
        while not (last.exists() and log.exists() and len(log.read_text().splitlines()) >= steps):
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_killed_twice_and_resumed_equals_uninterrupted(stage: str, people: Path, tmp_path: Path) -> None:
    data = f"folder:{people}"
    whole = uninterrupted(stage, data, tmp_path / "whole")
    broken = tmp_path / "broken"
    for steps in (2, 8):
        killed_after(steps, stage, data, broken)
    position = load(RunFolder(broken).last)["position"]
    resumed = uninterrupted(stage, data, broken)
    assert 0 < position[2] < load(resumed.last)["position"][2], "it was not killed in the middle"

    assert equal(load(whole.last), load(resumed.last))  # weights, teacher, centre, optimiser, position
    assert equal(load_file(whole.model), load_file(resumed.model))
    steps = [[json.loads(line) for line in f.metrics.read_text().splitlines()] for f in (whole, resumed)]
    for a, b in zip(*steps, strict=True):
        a.pop("seconds", None), b.pop("seconds", None)
        assert a == b


def test_a_finished_run_is_not_repeated(people: Path, tmp_path: Path) -> None:
    folder = uninterrupted("finetune", f"folder:{people}", tmp_path / "run")
    before = folder.last.stat().st_mtime_ns, folder.metrics.read_text()
    result = finetune(MODEL, f"folder:{people}", output_dir=folder.path, num_workers=0, **JOBS["finetune"])
    assert (folder.last.stat().st_mtime_ns, folder.metrics.read_text()) == before
    assert len(result.history) == 4
    assert 0 < result.metrics["mAP"] <= 1


def test_seeds(people: Path, tmp_path: Path) -> None:
    def weights(name: str, seed: int, workers: int) -> dict[str, torch.Tensor]:
        job = {**JOBS["pretrain"], "seed": seed, "epochs": 1}
        result = pretrain(MODEL, f"folder:{people}", output_dir=tmp_path / name, num_workers=workers, **job)
        return load_file(result.checkpoint)

    a, b, c = weights("a", 1, 0), weights("b", 1, 2), weights("c", 2, 0)
    assert equal(a, b)
    assert not equal(a, c)
