"""CION's step against golden values of the original networks in training mode, and the parts of the method."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

import reidzoo
from reidzoo.data.loaders import SampleKey
from reidzoo.models import DINOHead, from_official, to_official
from reidzoo.training._distributed import World
from reidzoo.training._engine import Progress
from reidzoo.training.configs import CIONConfig
from reidzoo.training.losses import IdentityDistillationLoss
from reidzoo.training.methods.cion import CION
from reidzoo.training.methods.dino import MultiCropNetwork

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CASES = json.loads((GOLDEN / "train_cases.json").read_text())


def official(network: MultiCropNetwork, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a network's tensors (or gradients) to the layout of the official checkpoints."""
    state = {**network.backbone.state_dict(), **{k[9:]: v for k, v in tensors.items() if k.startswith("backbone.")}}
    named = {f"backbone.{k}": v for k, v in to_official(state, network.backbone).items()}
    return {**named, **{k: v for k, v in tensors.items() if k.startswith("head.")}}


def filled(name: str, fill: Callable[..., Tensor], seed: int) -> MultiCropNetwork:
    network = MultiCropNetwork(reidzoo.create_model(name), DINOHead(reidzoo.model_info(name).embed_dim, 512))
    state = to_official(network.backbone.state_dict(), network.backbone)
    state = {k: fill(k, tuple(v.shape), seed) if v.is_floating_point() else v for k, v in state.items()}
    network.backbone.load_state_dict(from_official(state, network.backbone))
    head = network.head.state_dict()
    network.head.load_state_dict(
        {k: v if k.endswith("weight_g") else fill(f"head.{k}", tuple(v.shape), seed) for k, v in head.items()}
    )
    return network.train()


@pytest.mark.parametrize("name", sorted(CASES))
def test_one_step_of_the_original(name: str, fill: Callable[..., Tensor], images: Callable[..., Tensor]) -> None:
    golden, case = np.load(GOLDEN / "train_cases.npz"), CASES[name]
    student, teacher = filled(name, fill, 0), filled(name, fill, 0x7EAC)
    crops = [images(4, *((256, 128) if c < 2 else (128, 64)), seed=[0, 1 + c]) for c in range(4)]
    criterion = IdentityDistillationLoss(512, 4)
    with torch.no_grad():
        targets, _ = teacher(crops[:2])
    logits, _ = student(crops)
    loss = criterion(logits, targets, num_instances=2)
    loss.backward()

    def close(ours: Tensor, key: str, **tolerance: float) -> None:
        np.testing.assert_allclose(ours.detach().numpy(), golden[f"{name}/{key}"], **tolerance)

    close(logits[:, :64], "student_out", atol=1e-4)
    close(targets[:, :64], "teacher_out", atol=1e-4)
    assert loss.item() == pytest.approx(case["loss"], abs=1e-4)
    close(criterion.center.reshape(golden[f"{name}/center"].shape), "center", atol=1e-5)
    gradients = {k: p.grad for k, p in student.named_parameters() if p.grad is not None}
    named = official(student, gradients)
    norms = torch.stack([named[k].norm() for k in case["grad_param_names"]])
    # Deep IBN networks amplify rounding: the same step in float64 is 1 % away from the original's float32 as well.
    close(norms, "grad_norms", rtol=2e-2 if name == "resnet50_ibn" else 2e-3, atol=1e-5)
    state = official(student, student.state_dict())
    close(torch.stack([state[k].norm() for k in case["bn_stat_names"]]), "bn_stat_norms", rtol=1e-4)


class Counting(nn.Module):
    """A backbone that notes the shapes it sees."""

    embed_dim = 3
    pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []
        self.scale = nn.Parameter(torch.ones(3))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return self.norm(x).mean((2, 3)) * self.scale


def test_each_size_passes_the_backbone_once_and_rows_are_view_major() -> None:
    backbone = Counting()
    network = MultiCropNetwork(backbone, nn.Identity()).eval()
    sizes = [(8, 4), (8, 4), (4, 4), (4, 4), (4, 2)]  # equal widths, unequal heights are two sizes
    views = [
        torch.full((2, 3, *size), float(v)) + torch.tensor([0.0, 0.5]).view(2, 1, 1, 1) for v, size in enumerate(sizes)
    ]
    out, features = network(views)
    assert torch.equal(out, features)
    assert backbone.seen == [(4, 3, 8, 4), (4, 3, 4, 4), (2, 3, 4, 2)]
    expected = torch.tensor([v + i for v in range(5) for i in (0.0, 0.5)])
    torch.testing.assert_close(out[:, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def method(people: Path) -> CION:
    config = CIONConfig(
        batch_size=8,
        num_instances=2,
        img_size=(32, 16),
        local_size=(16, 16),
        local_crops=1,
        output_dim=16,
        hidden_dim=8,
        teacher_momentum=0.75,
        epochs=4,
        weight_decay=0.1,
        weight_decay_end=0.3,
        warmup_epochs=1,
        lr=0.32,
    )
    torch.manual_seed(0)
    return CION(Counting(), reidzoo.load_dataset(f"folder:{people}"), config, World(0, 1, torch.device("cpu")))


def step(method: CION, progress: Progress) -> None:
    views = [torch.randn(8, 3, 32, 16), torch.randn(8, 3, 32, 16), torch.randn(8, 3, 16, 16)]
    method.set_rates(progress)
    method.loss(method.network, views, torch.zeros(8), progress)["loss"].backward()
    method.before_step(progress)
    method.optimizer.step()
    method.after_step(progress)


def test_colours_on_the_device_give_the_same_loss(method: CION) -> None:
    """On a GPU the loader sends pixels and draws, and the batch is coloured there: the network sees the same views."""
    keys = [SampleKey(i, 0, 0) for i in range(8)]
    losses, pixels = [], []
    for deferred in (False, True):
        method.views.deferred = deferred
        views, pids = default_collate([method.dataset[key] for key in keys])
        pixels.append(views[0].dtype)
        torch.manual_seed(0)
        progress = Progress(epoch=0, iteration=0, iterations=10, step=0)
        losses.append(float(method.loss(method.network, views, pids, progress)["loss"].detach()))
    assert pixels == [torch.float32, torch.uint8]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_teacher_follows_parameters_not_statistics(method: CION) -> None:
    before = {k: v.clone() for k, v in method.teacher.state_dict().items()}
    step(method, Progress(epoch=0, iteration=5, iterations=10, step=5))
    student, teacher = method.network.state_dict(), method.teacher.state_dict()
    momentum = 1 + 0.5 * (0.75 - 1) * (1 + np.cos(np.pi * 0.5 / 4))
    for key, _ in method.network.named_parameters():
        torch.testing.assert_close(teacher[key], momentum * before[key] + (1 - momentum) * student[key])
    # The student saw three views, the teacher two: their running means differ.
    assert not torch.allclose(teacher["backbone.norm.running_mean"], student["backbone.norm.running_mean"])
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert method.criterion.center.abs().sum() > 0


def test_last_layer_rests_in_the_first_epoch_only(method: CION) -> None:
    weight = method.network.head.last_layer.weight_v
    before = weight.detach().clone()
    step(method, Progress(0, 5, 10, 5))
    assert torch.equal(weight, before)
    step(method, Progress(1, 0, 10, 10))
    assert not torch.equal(weight, before)
    assert (method.network.head.last_layer.weight_g == 1).all()


def test_rates(method: CION) -> None:
    method.set_rates(Progress(0, 5, 10, 5))
    decayed, plain = method.optimizer.param_groups
    assert decayed["lr"] == plain["lr"] == pytest.approx(0.5 * 0.32 * 8 / 256)
    method.set_rates(Progress(2, 0, 10, 20))
    assert decayed["weight_decay"] == pytest.approx(0.2)
    assert plain["weight_decay"] == 0


def test_the_result_can_be_trained_further(method: CION) -> None:
    """A frozen teacher handed to fine-tuning would train its head alone, and nothing would say so."""
    assert all(p.requires_grad for p in method.trained().parameters())
