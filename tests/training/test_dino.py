"""DINO on images of nobody in particular, against formulas written out; and what CION can have back of its release."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reidzoo
from reidzoo.data import Records, ReIDDataset
from reidzoo.models._surgery import set_drop_path
from reidzoo.training._checkpoint import RunFolder
from reidzoo.training._distributed import World
from reidzoo.training._engine import Progress, _Loop
from reidzoo.training._tracking import read_history
from reidzoo.training.configs import CIONConfig, DINOConfig
from reidzoo.training.methods.cion import CION
from reidzoo.training.methods.dino import DINO
from reidzoo.training.schedules import released_cosine

CPU = World(0, 1, torch.device("cpu"))
SMALL: dict[str, Any] = {
    "img_size": (32, 16), "local_size": (16, 16), "local_crops": 2, "output_dim": 24, "hidden_dim": 8,
    "epochs": 4, "batch_size": 8, "device": "cpu", "num_workers": 0,
}  # fmt: skip


@pytest.fixture
def nobody(people: Path) -> ReIDDataset:
    """Images without identities."""
    train = reidzoo.load_dataset(f"folder:{people}").train
    unknown = Records(train.path, np.full(len(train), -1), train.camid)
    return ReIDDataset("nobody", people, unknown, Records.empty(), Records.empty())


def make(cls: type[DINO], data: ReIDDataset, config: Any, model: str = "timm/test_vit") -> DINO:
    torch.manual_seed(0)
    method = cls(reidzoo.create_model(model, img_size=config.img_size), data, config, CPU)
    method.network.train()
    return method


def drop_probs(network: nn.Module) -> list[float]:
    named = network.named_modules()
    return [getattr(m, "drop_prob", 0.0) for n, m in named if n.rpartition(".")[2].startswith("drop_path")]


def test_loss_is_that_of_the_paper(nobody: ReIDDataset) -> None:
    """Caron et al., 2021, algorithm 1, in loops over pairs of views and images; and what the log says of the batch."""
    config = DINOConfig(**SMALL, drop_path=0.0, teacher_temp=0.05, teacher_temp_start=0.05)
    method = make(DINO, nobody, config)
    method.criterion.center.normal_(std=0.1)
    views = [torch.randn(5, 3, *((32, 16) if v < 2 else (16, 16))) for v in range(4)]
    logged = method.loss(method.network, views, torch.zeros(5), Progress(0, 0, 9, 0))

    with torch.no_grad():
        student, features = method.network(views)
        teacher, _ = method.teacher(views[:2])
    s = student.double().reshape(4, 5, -1)
    q = ((teacher.double() - method.criterion.center) / 0.05).softmax(-1).reshape(2, 5, -1)
    terms = [
        -(q[u, b] * (s[v, b] / 0.1).log_softmax(-1)).sum()
        for u, v, b in itertools.product(range(2), range(4), range(5))
        if u != v
    ]
    entropy = -(q * q.log()).sum(-1).mean()
    assert float(logged["loss"].detach()) == pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)
    assert float(logged["teacher_entropy"]) == pytest.approx(float(entropy), rel=1e-5)
    assert float(logged["kl"]) == pytest.approx(float(torch.stack(terms).mean() - entropy), abs=1e-5)
    assert float(logged["center_norm"]) == pytest.approx(float(method.criterion.center.norm()), rel=1e-5)
    first = features[:5].double().numpy()
    unit = first / np.linalg.norm(first, axis=1, keepdims=True)
    assert float(logged["feature_std"]) == pytest.approx(unit.std(0).mean(), rel=1e-4)


def test_a_run_on_images_without_identities(nobody: ReIDDataset, tmp_path: Path) -> None:
    result = reidzoo.pretrain("timm/test_vit", nobody, method="dino", output_dir=tmp_path, **{**SMALL, "epochs": 2})
    steps = read_history(RunFolder(tmp_path).metrics, "step")
    assert len(steps) == 2 * (72 // 8)
    assert {"loss", "teacher_entropy", "kl", "center_norm", "feature_std", "momentum", "weight_decay"} <= set(steps[0])
    assert result.model(torch.zeros(1, 3, 32, 16)).shape == (1, result.model.embed_dim)


def test_teacher_temperature_follows_its_schedule(nobody: ReIDDataset) -> None:
    config = DINOConfig(**SMALL, teacher_temp_start=0.02, teacher_temp=0.06, teacher_temp_epochs=3)
    method, seen = make(DINO, nobody, config), []
    for epoch in range(4):
        method.set_rates(Progress(epoch, 0, 9, 9 * epoch))
        seen.append(method.criterion.teacher_temp)
    assert seen == pytest.approx([0.02, 0.04, 0.06, 0.06])


@pytest.mark.parametrize("model", ["timm/test_vit", "timm/test_convnext", "resnet18"])
def test_stochastic_depth_rises_over_the_blocks_and_spares_the_teacher(model: str, nobody: ReIDDataset) -> None:
    method = make(DINO, nobody, DINOConfig(**SMALL, drop_path=0.3), model)
    student = sorted(set(drop_probs(method.network)))
    assert student[0] == 0
    assert student[-1] == pytest.approx(0.3)
    np.testing.assert_allclose(np.diff(student), 0.3 / (len(student) - 1))
    assert drop_probs(method.teacher)
    assert not any(drop_probs(method.teacher))
    assert drop_probs(method.trained()) == drop_probs(reidzoo.create_model(model, img_size=(32, 16)))


def test_drop_path_of_the_network_is_kept_unless_set(nobody: ReIDDataset, people: Path) -> None:
    data, swin = reidzoo.load_dataset(f"folder:{people}"), "timm/test_vit"
    for config, expected in ((CIONConfig(**SMALL, num_instances=2), 0), ({"teacher_drop_path": True}, 0.2)):
        config = config if isinstance(config, CIONConfig) else CIONConfig(**SMALL, num_instances=2, **config)
        torch.manual_seed(0)
        backbone = set_drop_path(reidzoo.create_model(swin, img_size=(32, 16)), 0.2)
        method = CION(backbone, data, config, CPU)
        assert max(drop_probs(method.network)) == pytest.approx(0.2)
        assert max(drop_probs(method.teacher)) == pytest.approx(expected)
        assert drop_probs(method.trained()) == drop_probs(backbone)


def test_gain_of_the_last_layer_learns_if_told(nobody: ReIDDataset) -> None:
    views = [torch.randn(4, 3, 32, 16) for _ in range(2)]
    for keeps in (True, False):
        method = make(DINO, nobody, DINOConfig(**{**SMALL, "local_crops": 0}, norm_last_layer=keeps, lr=3.0))
        progress = Progress(2, 0, 9, 18)
        method.set_rates(progress)
        method.loss(method.network, views, torch.zeros(4), progress)["loss"].backward()
        method.before_step(progress)
        method.optimizer.step()
        method.after_step(progress)
        for network in (method.network, method.teacher):
            assert bool((network.head.last_layer.weight_g == 1).all()) == keeps


def test_release_clips_gradients_that_carry_the_loss_scale(people: Path, tmp_path: Path) -> None:
    """With SGD a step is lr * gradient, so a clipped gradient shows: at most clip_grad, or that / scale."""
    data = reidzoo.load_dataset(f"folder:{people}")
    for release in (False, True):
        config = CIONConfig(
            **{**SMALL, "hidden_dim": 64}, num_instances=2, precision="fp16", clip_scaled_grads=release,
            optimizer="sgd", clip_grad=0.001, lr=320.0, warmup_epochs=0, weight_decay=0, weight_decay_end=0,
        )  # fmt: skip
        method = make(CION, data, config)
        loop = _Loop(method, config, RunFolder(tmp_path / str(release)), CPU, resume=False)
        loop.network = method.network
        weights = [p for p in method.network.parameters() if p.requires_grad]
        views = [torch.randn(8, 3, *((32, 16) if v < 2 else (16, 16))) for v in range(4)]
        step = 0.0
        while not step and loop.scaler.get_scale() > 1:  # steps that overflow are left out, and the scale is halved
            before, scale = [p.detach().clone() for p in weights], loop.scaler.get_scale()
            loop._train_step((views, torch.arange(4).repeat_interleave(2)), Progress(1, 0, 9, 9))
            step = max(float((p - b).double().norm()) for p, b in zip(weights, before, strict=True))
        lr = method.optimizer.param_groups[0]["lr"]
        assert scale > 100
        assert step == pytest.approx(0.001 * lr / (scale if release else 1), rel=0.05)


def test_release_schedule_and_loss_are_the_ones_asked_for(people: Path) -> None:
    data = reidzoo.load_dataset(f"folder:{people}")
    config = CIONConfig(**SMALL, num_instances=2, schedule="release", loss_variant="paper", warmup_epochs=1)
    method = make(CION, data, config)
    assert method.criterion.variant == "paper"
    method.set_rates(Progress(epoch=2, iteration=3, iterations=11, step=25))  # 72 images: 9 steps were expected
    decay = released_cosine(25, epochs=4, steps=9, base=config.weight_decay, final=config.weight_decay_end)
    assert method.optimizer.param_groups[0]["weight_decay"] == pytest.approx(decay)
    assert method.rates() == {
        "weight_decay": decay, "teacher_temp": 0.04, "num_instances": 2,
        "momentum": released_cosine(25, epochs=4, steps=9, base=0.996, final=1.0),
    }  # fmt: skip
    lr = released_cosine(25, epochs=4, steps=9, base=5e-4 * 8 / 256, final=1e-6, warmup=1)
    assert method.optimizer.param_groups[1]["lr"] == pytest.approx(lr)


def test_crops_are_of_the_shape_asked_for(nobody: ReIDDataset) -> None:
    assert make(DINO, nobody, DINOConfig(**SMALL)).views.ratio == (0.75, 1.3333)
    assert make(DINO, nobody, DINOConfig(**SMALL, crop_ratio=(0, 0))).views.ratio == pytest.approx((0.4, 0.6))
