"""A run that is killed anywhere and started again ends with the same bits as one that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
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
        "warmup_epochs": 1,
        "output_dim": 64,
        "hidden_dim": 32,
    },
    "finetune": {**COMMON, "epochs": 4, "batch_size": 12, "num_instances": 3, "warmup_epochs": 1},
}
STAGES: dict[str, Callable[..., Any]] = {"pretrain": pretrain, "finetune": finetune}
# A network with everything that carries state or draws random numbers: BatchNorm, stochastic depth.
MODEL = "timm/test_efficientnet"
MEASURED = {"seconds", "images_per_s", "memory_gb"}
# Real processes, forked from one that has imported what a run needs: ten of them cost as much as one.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["reidzoo.training._run", "reidzoo.training.methods.cion", "reidzoo.eval.evaluate"])


def whole_run(stage: str, data: str, out: Path, **settings: Any) -> RunFolder:
    STAGES[stage](MODEL, data, output_dir=out, **{"num_workers": 0, **JOBS[stage], **settings})
    return RunFolder(out)


def wait(process: BaseProcess, happened: Callable[[], object]) -> bool:
    """Look without pause until it happened; False if the process ended before."""
    while not happened():
        if not process.is_alive():
            return False
    return True


def kill_somewhere(stage: str, data: str, out: Path, *, workers: int, writing: bool, rng: random.Random) -> bool:
    """Start or go on with the run in a process; SIGKILL it in the middle of writing a checkpoint, or anywhere later.

    Returns:
        Whether a checkpoint was being written.
    """
    folder, settings = RunFolder(out), {**JOBS[stage], "num_workers": workers}
    process = FORKS.Process(target=STAGES[stage], args=(MODEL, data), kwargs={"output_dir": out, **settings})
    last = folder.last.stat().st_mtime_ns if folder.last.exists() else 0
    process.start()

    def half() -> bool:  # its own: what an earlier one left is there until the folder is opened
        return any(folder.last.parent.glob(f".last.pt.{process.pid}-*.tmp"))

    if writing:
        wait(process, half)
    else:
        wait(process, lambda: folder.last.exists() and folder.last.stat().st_mtime_ns != last)
        time.sleep(rng.uniform(0, 0.1))
    process.kill()
    process.join()
    assert process.exitcode in (0, -9), "the run failed"
    return half()


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def log(folder: RunFolder) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_killed_anywhere_and_resumed_equals_uninterrupted(stage: str, people: Path, tmp_path: Path) -> None:
    data, rng = f"folder:{people}", random.Random(stage)
    whole = whole_run(stage, data, tmp_path / "whole")
    broken = tmp_path / "broken"
    torn, positions = 0, []
    for attempt in range(3):
        torn += kill_somewhere(stage, data, broken, workers=attempt, writing=attempt != 1, rng=rng)
        if RunFolder(broken).last.exists():
            positions.append(load(RunFolder(broken).last)["position"][2])
    assert torn > 0, "it was never killed while it wrote"
    resumed = whole_run(stage, data, broken)
    assert 0 < positions[-1] < load(resumed.last)["position"][2], "it was not killed in the middle"

    assert equal(load(whole.last), load(resumed.last))  # weights, teacher, centre, optimiser, position
    assert equal(load_file(whole.model), load_file(resumed.model))
    assert log(whole) == log(resumed)
    assert not list(broken.rglob(".*.tmp"))


def test_a_finished_run_is_not_repeated(people: Path, tmp_path: Path) -> None:
    folder = whole_run("finetune", f"folder:{people}", tmp_path / "run")
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
