"""Synthetic weights and images of the golden outputs (see tests/data/golden/README.md)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture(scope="session")
def manifest() -> dict:
    return json.loads((GOLDEN / "manifest.json").read_text())


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "outputs.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def official_container() -> Callable[..., dict]:
    """official_container(state, prefix, arch): the dictionary that the official training writes."""

    def container(state: dict[str, Tensor], prefix: str, arch: str) -> dict:
        head = prefix.replace("backbone.", "head.")
        teacher = {prefix + key: tensor for key, tensor in state.items()}
        teacher |= {f"{head}mlp.0.weight": torch.ones(2, 2), f"{head}last_layer.weight_g": torch.ones(2, 1)}
        return {
            "student": {"module.backbone.conv1.weight": torch.zeros(1)},  # must not be taken for the weights
            "teacher": teacher,
            "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(1e-3), "weight_decay": np.float64(0.04)}]},
            "epoch": 100,
            "args": argparse.Namespace(arch=arch, lr=0.0005, local_crops_number=8),
            "Loss": {"center": torch.zeros(1, 4)},
            "fp16_scaler": {"scale": 65536.0},
        }

    return container
