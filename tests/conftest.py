"""What all tests share: no traces on the developer's machine, one thread, synthetic weights and images."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

SMALL = (0.1, ("bias", "running_mean")), (0.5, ("pos_embed", "cls_token", "relative_position_bias_table"))
SCALES = ("gamma", "gamma_xca", "layer_scale", "layer_scale_1", "layer_scale_2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: the README's demo, beside which another process does many short tests."""
    items.sort(key=lambda item: "test_examples_run[README.md]" not in item.nodeid)


@pytest.fixture(autouse=True, scope="session")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep out of the user's folders; compute on one thread, as loader processes want the other core."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDZOO_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("REIDZOO_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setenv("REIDZOO_PROGRESS", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def warm_python(isolated: None) -> Iterator[str]:
    """A program to start in place of `sys.executable`, which has torch already: see ``warm_python.py``.

    A `reidzoo` of the same kind is in its folder. For what is not about importing: that costs more than most tests.
    """
    if sys.platform != "linux":
        yield sys.executable
        return
    server = [sys.executable, str(Path(__file__).with_name("warm_python.py"))]
    main = "import sys; from reidzoo.cli.main import main; sys.exit(main())"
    with tempfile.TemporaryDirectory() as folder:
        address, python, command = (str(Path(folder, name)) for name in ("socket", "python", "reidzoo"))
        asked = shlex.join([server[0], "-IS", server[1], address])
        asked = f"env PYTHON_EXEC={shlex.quote(python)} {asked}"  # what torchrun starts its ranks with
        for program, line in ((python, asked), (command, shlex.join([python, "-c", main]))):
            Path(program).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
            os.chmod(program, 0o755)
        with subprocess.Popen([*server, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield python
            process.terminate()


@pytest.fixture(scope="session")
def fill() -> Callable[..., Tensor]:
    """fill(name, shape, seed=0): the synthetic value of a tensor of the official layout."""

    def fill(name: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
        rng = np.random.default_rng(zlib.crc32(name.encode()) ^ seed)
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "running_var":
            a = rng.uniform(0.5, 1.5, shape) * (1.65 if ".token_mixer.0.bn." in name else 1.0)
        else:
            a = rng.standard_normal(shape)
            factor = next((f for f, leaves in SMALL if leaf in leaves), None)
            fan_in = float(np.prod(shape[1:]))
            if factor is not None:
                a = factor * a
            elif leaf in SCALES:
                a = 0.1 + 0.05 * a
            elif leaf == "temperature":
                a = 4 + a
            elif len(shape) == 1:
                a = 1 + 0.1 * a
            elif len(shape) == 4 and shape[1] > 1:
                a = (a - a.mean(axis=(1, 2, 3), keepdims=True)) / np.sqrt(fan_in)
            elif len(shape) == 4:
                a = 0.7 * a / np.sqrt(fan_in)
            else:
                a = a / np.sqrt(fan_in)
        return torch.from_numpy(np.asarray(a).astype(np.float32))

    return fill


@pytest.fixture(scope="session")
def images() -> Callable[..., Tensor]:
    """images(n, h, w, seed=0): noise with a random colour offset per image."""

    def images(n: int, height: int, width: int, seed: int | list[int] = 0) -> Tensor:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((n, 3, height, width)) + 2.0 * rng.standard_normal((n, 3, 1, 1))
        return torch.from_numpy(x.astype(np.float32))

    return images


@pytest.fixture(scope="session")
def official_container() -> Callable[..., dict[str, Any]]:
    """official_container(state, prefix, arch): the dictionary that the official training writes."""

    def container(state: dict[str, Tensor], prefix: str, arch: str) -> dict[str, Any]:
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
