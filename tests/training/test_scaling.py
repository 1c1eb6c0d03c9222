"""What makes big networks fit changes nothing of what is computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import reidzoo
from reidzoo import finetune, pretrain
from reidzoo.errors import ConfigError
from reidzoo.training import _engine
from reidzoo.training._checkpoint import RunFolder, load
from reidzoo.training._scaling import compiled, recomputed, statistics_at_rest
from reidzoo.training._tracking import read_history

JOB: dict[str, Any] = {
    "img_size": (64, 32),
    "seed": 3,
    "device": "cpu",
    "epochs": 1,
    "batch_size": 24,
    "num_instances": 2,
    "local_crops": 2,
    "local_size": (32, 32),
    "output_dim": 64,
    "hidden_dim": 32,
    "warmup_epochs": 0,
    "freeze_last_layer": 0,
    "num_workers": 0,
}


def trained(
    model: str | nn.Module, people: Path, out: Path, **settings: Any
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    pretrain(model, f"folder:{people}", output_dir=out, **{**JOB, **settings})
    method = load(RunFolder(out).last)["method"]
    tensors = {f"{part}.{name}": t for part, state in method.items() for name, t in state.items()}
    return tensors, read_history(RunFolder(out).metrics, "step")


class Tiny(nn.Module):
    """A backbone of one layer that notes how it was called."""

    embed_dim = 8
    pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 64, 32)}  # noqa: RUF012
    traced: ClassVar[list[bool]] = []

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            Tiny.traced.append(self.layer.weight.requires_grad)
        return self.layer(x.mean((2, 3)))


def test_micro_batches_are_the_batch(people: Path, tmp_path: Path) -> None:
    """The loss, the centre, the moving average and the optimiser wait for the last micro-batch (no BatchNorm here)."""
    torch.manual_seed(0)
    whole, steps = trained(Tiny(), people, tmp_path / "whole", optimizer="sgd", lr=1.0)
    torch.manual_seed(0)
    parts, others = trained(Tiny(), people, tmp_path / "parts", optimizer="sgd", lr=1.0, micro_batch=6)
    assert len(steps) == len(others) == 3
    for a, b in zip(steps, others, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["center_norm"] == pytest.approx(b["center_norm"], abs=1e-6)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, atol=1e-5, rtol=1e-4, msg=name)
    assert not torch.equal(whole["student.head.mlp.0.weight"], whole["teacher.head.mlp.0.weight"])


def test_recomputed_activations_give_the_same_bits(people: Path, tmp_path: Path) -> None:
    """Also of BatchNorm's statistics, which must not count the second pass, and with stochastic depth."""
    settings = {"drop_path": 0.2}
    kept, _ = trained("timm/test_efficientnet", people, tmp_path / "a", **settings)
    recomputed, _ = trained("timm/test_efficientnet", people, tmp_path / "b", grad_checkpointing=True, **settings)
    assert kept.keys() == recomputed.keys()
    assert any("running_var" in name for name in kept)
    for name, tensor in kept.items():
        assert torch.equal(tensor, recomputed[name]), name


def held(network: nn.Module) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    total = 0

    def count(x: Tensor) -> Tensor:
        nonlocal total
        total += x.nbytes
        return x

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        out = network(torch.randn(2, 3, 64, 32))
    out.sum().backward()
    return total


def test_recomputation_saves_memory_and_is_switched_off_again() -> None:
    backbone = reidzoo.create_model("timm/test_vit", img_size=(64, 32)).train()
    network = nn.Sequential(backbone, nn.Linear(backbone.embed_dim, 2))
    plain = held(network)
    with recomputed(network):
        assert held(network) < 0.5 * plain
    assert held(network) == plain


def test_a_backbone_that_cannot_recompute_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"set_grad_checkpointing.*micro_batch"), recomputed(nn.Linear(1, 1)):
        pass


def test_statistics_rest_where_batches_are_normalised_by_themselves() -> None:
    norm, frozen = nn.BatchNorm1d(3), nn.BatchNorm1d(3).eval()
    both, x = nn.Sequential(frozen, norm), torch.randn(8, 3)
    expected, before = copy.deepcopy(both)(x), copy.deepcopy(both.state_dict())
    with statistics_at_rest(both):
        assert torch.equal(both(x), expected)
    for name, tensor in both.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    both(x)
    assert norm.num_batches_tracked == 1
    assert not torch.equal(norm.running_mean, before["1.running_mean"])


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.traced = False

    def forward(self, x: Tensor) -> Tensor:
        self.traced = self.traced or torch.compiler.is_compiling()
        return self.linear(x).relu()


@pytest.fixture
def eager_backend() -> Iterator[None]:
    """torch.compile's tracing without its code generation, which takes minutes."""
    if not hasattr(torch.compiler, "set_default_backend"):
        pytest.skip("this torch has no torch.compiler.set_default_backend")
    before = torch.compiler.get_default_backend()
    torch.compiler.set_default_backend("eager")
    yield
    torch.compiler.set_default_backend(before)
    torch.compiler.reset()


@pytest.mark.usefixtures("eager_backend")
def test_compiled_networks_keep_their_names_and_are_plain_again() -> None:
    network, x = Branch(), torch.randn(3, 2)
    expected, names = network(x), list(network.state_dict())
    with compiled([network]):
        assert torch.equal(network(x), expected)
        assert network.traced
        assert list(network.state_dict()) == names
        assert copy.deepcopy(network)._compiled_call_impl is None
    assert network._compiled_call_impl is None


@pytest.mark.usefixtures("eager_backend")
def test_a_compiled_run_is_the_run(people: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, _ = trained(Tiny(), people, tmp_path / "a")
    assert not Tiny.traced
    torch.manual_seed(0)
    traced, _ = trained(Tiny(), people, tmp_path / "b", compile=True)
    assert len(Tiny.traced) >= 2, "student and teacher"
    for name, tensor in plain.items():
        torch.testing.assert_close(traced[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


class Syncs(TorchDispatchMode):
    """Notes what would make the host wait for a GPU: reading a value of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.on = True

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if self.on and name in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select"):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_no_step_waits_for_the_device(
    stage: str, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs, steps, train_step = Syncs(), 0, _engine._Loop._train_step

    def watched(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        with syncs:
            return train_step(*arguments)

    @contextmanager
    def elsewhere() -> Iterator[None]:
        # On the CPU AdamW reads its step counter; on a GPU the fused one does not.
        syncs.on = False
        yield
        syncs.on = True

    def step(optimizer: Any, *arguments: Any) -> Any:
        with elsewhere():
            return plain_step(optimizer, *arguments)

    monkeypatch.setattr(_engine._Loop, "_train_step", watched)
    plain_step = torch.amp.GradScaler.step
    monkeypatch.setattr(torch.amp.GradScaler, "step", step)
    if stage == "pretrain":
        pretrain(Tiny(), f"folder:{people}", output_dir=tmp_path / "run", **JOB)
    else:
        settings = {k: JOB[k] for k in ("img_size", "device", "epochs", "batch_size", "num_workers")}
        finetune("timm/test_convnext", f"folder:{people}", output_dir=tmp_path / "run", num_instances=4, **settings)
    assert steps > 1
    assert syncs.found == []
    with syncs:
        float(torch.ones(1).sum())
    assert syncs.found, "it sees nothing at all"
