"""Bag of tricks with AGW's non-local blocks; that it learns, resumes and loads is in test_methods.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import reidzoo
from reidzoo import finetune
from reidzoo.models.attention import NonLocal
from reidzoo.training._distributed import World
from reidzoo.training._engine import Progress
from reidzoo.training.configs import BoTConfig
from reidzoo.training.methods.bot import BoT

JOB: dict[str, Any] = {
    "img_size": (32, 16), "batch_size": 36, "num_instances": 3, "epochs": 1, "lr": 0.003, "padding": 2,
    "warmup_epochs": 0, "num_workers": 0, "device": "cpu",
}  # fmt: skip


def test_another_run_and_its_file_keep_the_blocks(people: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = reidzoo.create_model("timm/test_resnet", img_size=(32, 16))
    first: Any = finetune(
        model, f"folder:{people}", method="bot", non_local=True, output_dir=tmp_path / "a", **{**JOB, "epochs": 2}
    )
    assert not any(isinstance(m, NonLocal) for m in model.modules())  # the caller's network stays as it is
    blocks = [m for m in first.model.modules() if isinstance(m, NonLocal)]
    assert [m.norm.weight.numel() for m in blocks] == [48, 192]
    assert all(m.norm.weight.abs().sum() > 0 for m in blocks)  # they started at zero

    second: Any = finetune(first.model, f"folder:{people}", output_dir=tmp_path / "b", **JOB)
    again, x = reidzoo.create_model(f"local-dir:{tmp_path / 'b'}").eval(), torch.randn(2, 3, 32, 16)
    assert torch.equal(again(x), second.model(x))
    assert sum(isinstance(m, NonLocal) for m in again.modules()) == 2


def test_rates_an_epoch_ahead(people: Path) -> None:
    """``lr_ahead`` is for bag of tricks as for TransReID, from which it has it: 0.01 to 1 in 10 epochs, then steps."""
    settings = {**JOB, "epochs": 120, "lr": 1.0, "warmup_epochs": 10, "lr_ahead": 1}
    backbone, here = reidzoo.create_model("timm/test_resnet", img_size=(32, 16)), World(0, 1, torch.device("cpu"))
    method = BoT(backbone, reidzoo.load_dataset(f"folder:{people}"), BoTConfig(**settings), here)
    expected = {0: 0.109, 8: 0.901, 9: 1.0, 38: 1.0, 39: 0.1, 69: 0.01}
    assert {e: method.rate(Progress(e, 0, 10, 0), 1.0) for e in expected} == pytest.approx(expected)
