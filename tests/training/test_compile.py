"""torch.compile changes nothing of what fine-tuning computes, and makes one graph of a network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import reidzoo
from reidzoo.eval import extract_features
from reidzoo.training._distributed import World
from reidzoo.training._engine import Progress
from reidzoo.training.methods import FINETUNE

JOB: dict[str, Any] = {"num_instances": 4, "batch_size": 12, "num_workers": 0, "device": "cpu", "img_size": (48, 16)}


class Small(nn.Module):
    """One layer, where what is compiled beside the network is the head."""

    embed_dim = 8
    pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 48, 16)}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x).mean((2, 3))


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "bot": ("", {"pool": "gem", "last_stride": 0}),
    "pcb": ("", {"dropout": 0.0}),
    "mgn": ("timm/test_resnet", {"img_size": (96, 32), "freeze_epochs": 0}),
    "transreid": ("timm/test_vit", {"img_size": (64, 32), "jpm": True, "stride": 14, "sie": 3.0}),
}


@pytest.fixture(autouse=True)
def from_the_start() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("name", METHODS)
def test_a_compiled_step_is_the_step(name: str, people: Path) -> None:
    """Traced as one graph, which torch's own kernels run: code generation takes minutes."""
    model, settings = METHODS[name]
    info, data = FINETUNE[name], reidzoo.load_dataset(f"folder:{people}")
    config = info.config(**{**JOB, **settings})
    torch.manual_seed(0)
    backbone = reidzoo.create_model(model, img_size=config.img_size) if model else Small()
    plain = resolve_name(info.cls)(backbone, data, config, World(0, 1, torch.device("cpu")))
    traced = copy.deepcopy(plain)
    traced.network.compile(backend="eager", fullgraph=True, dynamic=False)
    pids = torch.arange(3).repeat_interleave(4)
    labels = torch.stack([pids, torch.zeros_like(pids)], 1) if settings.get("sie") else pids
    images = torch.randn(12, 3, *config.img_size)
    for method in (plain, traced):
        method.network.train()
        method.set_rates(progress := Progress(0, 0, 1, 0))
        method.loss(method.network, [images], labels, progress)["loss"].backward()
        assert counters["stats"]["unique_graphs"] == (method is traced)
    parameters = list(zip(plain.network.named_parameters(), traced.network.parameters(), strict=True))
    assert sum(p.grad is not None for (_, p), _ in parameters) > 5
    for (key, p), same in parameters:
        assert (p.grad is None) == (same.grad is None), key
        assert p.grad is None or torch.equal(p.grad, same.grad), key
    for (key, b), same in zip(plain.network.named_buffers(), traced.network.buffers(), strict=True):
        assert torch.equal(b, same), key


@pytest.mark.skipif(not hasattr(torch.compiler, "set_default_backend"), reason="this torch cannot choose the backend")
def test_a_compiled_run_is_the_run_and_does_not_compile_its_evaluations(people: Path, tmp_path: Path) -> None:
    """Query, gallery and what is left of each are shapes of their own, each of which would be compiled for minutes."""
    job = {**JOB, "method": "baseline", "losses": "circle", "epochs": 2, "eval_every": 1, "lr": 0.01}
    before, results = torch.compiler.get_default_backend(), []
    torch.compiler.set_default_backend("eager")
    try:
        for compiled in (False, True):
            torch.manual_seed(0)
            folder = tmp_path / f"{compiled}"
            results.append(reidzoo.finetune(Small(), f"folder:{people}", output_dir=folder, compile=compiled, **job))
            assert counters["stats"]["unique_graphs"] == compiled
    finally:
        torch.compiler.set_default_backend(before)
    plain, traced = results
    assert all("mAP" in row for row in traced.history)
    for (key, tensor), same in zip(plain.model.state_dict().items(), traced.model.state_dict().values(), strict=True):
        assert torch.equal(tensor, same), key


@pytest.mark.skipif(not hasattr(torch.compiler, "set_default_backend"), reason="this torch counts no such graphs")
def test_sizes_of_an_evaluation_are_compiled_once_for_all() -> None:
    """Of a network that was compiled for any shape there are graphs for the first one and for all others, not 16."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images, settings = torch.randn(7, 3, 64, 32), {"scales": (1, 1.5, 2, 2.5), "batch_size": 4}
    expected = extract_features(model, images, **settings)
    model.compile(backend="eager")
    np.testing.assert_allclose(extract_features(model, images, **settings), expected, atol=1e-6)
    assert 1 <= counters["stats"]["unique_graphs"] <= 3
