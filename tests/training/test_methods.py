"""The fine-tuning methods: their networks, losses and rates against plain computations, and what they share."""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import reidzoo
from reidzoo import finetune
from reidzoo.data.transforms import TrainTransform
from reidzoo.errors import ConfigError, CorruptImageError, DataNotFoundError
from reidzoo.models.attention import USAM
from reidzoo.models.heads import BNNeck, HeadOutput, ReIDModel
from reidzoo.training import _checkpoint
from reidzoo.training._distributed import World
from reidzoo.training._engine import Progress
from reidzoo.training._opposite import turn_around
from reidzoo.training._tracking import read_history
from reidzoo.training.configs import METRIC_LOSSES, BaselineConfig, BoTConfig, PCBConfig, TransReIDConfig
from reidzoo.training.losses import MARGIN, PAIRWISE, PROXIES, cross_entropy
from reidzoo.training.methods import FINETUNE, pcb
from reidzoo.training.methods._unlabelled import PairSampler, disagreement, opinion
from reidzoo.training.methods.baseline import Baseline, loss_warmup
from reidzoo.training.methods.bot import BoT
from reidzoo.training.methods.transreid import TransReID
from reidzoo.training.optim import layer_factors, rate_groups
from reidzoo.training.schedules import warmup_steps

HERE = World(0, 1, torch.device("cpu"))
JOB: dict[str, Any] = {"img_size": (32, 16), "batch_size": 12, "padding": 2, "num_workers": 0, "device": "cpu"}
# What short runs on tiny networks need, by method; MGN has its own tests.
SHORT: dict[str, dict[str, Any]] = {
    "transreid": {"num_instances": 3, "lr": 0.02, "warmup_epochs": 1},
    "bot": {"num_instances": 3, "lr": 0.003, "warmup_epochs": 1, "pool": "gem", "non_local": True, "feat_dim": 24},
    "baseline": {"lr": 0.005, "trunk_lr_factor": 1.0, "losses": "circle,triplet_mined"},
    "pcb": {"img_size": (64, 32), "parts": 4, "lr": 0.005, "trunk_lr_factor": 1.0, "padding": 0},
}


def at(epoch: int, *, iteration: int = 0, iterations: int = 10) -> Progress:
    return Progress(epoch, iteration, iterations, epoch * iterations + iteration)


def make(cls: type, config: type, people: Path, model: str = "timm/test_resnet", **settings: Any) -> Any:
    torch.manual_seed(0)
    c = config(**{**JOB, **settings})
    backbone, data = reidzoo.create_model(model, img_size=c.img_size), reidzoo.load_dataset(f"folder:{people}")
    return cls(backbone, data, c, HERE, *([data.train] if getattr(c, "unlabelled", "") else []))


# Every method


def test_all_methods_are_here() -> None:
    assert set(FINETUNE) == {*SHORT, "mgn"}


@pytest.mark.parametrize("method", SHORT)
def test_it_learns_and_its_file_gives_its_features(people: Path, tmp_path: Path, method: str) -> None:
    job = {**JOB, "epochs": 4, **SHORT[method]}
    result = finetune("timm/test_resnet", f"folder:{people}", method=method, output_dir=tmp_path / "run", **job)
    assert result.history[-1]["loss"] < 0.9 * result.history[0]["loss"]
    again = reidzoo.create_model(f"local-dir:{tmp_path / 'run'}").eval()
    x = torch.randn(2, 3, *job["img_size"])
    assert torch.equal(again(x), result.model(x))


def test_a_stopped_run_goes_on_with_average_and_centres(people: Path, tmp_path: Path) -> None:
    job = {**JOB, **SHORT["bot"], "epochs": 2, "ema": 0.9, "freeze_epochs": 1, "center_weight": 0.05, "method": "bot"}
    whole = finetune("timm/test_resnet", f"folder:{people}", output_dir=tmp_path / "a", **job)
    make_stopped(people, tmp_path / "b", job)
    again = finetune("timm/test_resnet", f"folder:{people}", output_dir=tmp_path / "b", **job)
    for (name, a), b in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def make_stopped(people: Path, folder: Path, job: dict[str, Any], steps: int = 9) -> None:
    """A run that was killed after `steps` steps."""
    from reidzoo.training import _engine

    count = iter(range(10**6))

    class KilledError(Exception):
        pass

    def stop(self: Any, *args: Any, real: Any = _engine._Loop._train_step) -> Any:
        if next(count) == steps:
            raise KilledError
        return real(self, *args)

    job = {**job, "output_dir": folder, "checkpoint_every_steps": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_engine._Loop, "_train_step", stop)
        with pytest.raises(KilledError):
            finetune("timm/test_resnet", f"folder:{people}", **job)


# Losses


def smoothed(logits: np.ndarray, pids: np.ndarray, e: float) -> float:
    """Cross-entropy against (1 - e) * one-hot + e / C, image by image."""
    total = 0.0
    for row, pid in zip(logits, pids, strict=True):
        log_p = row - np.log(np.exp(row).sum())
        total -= (1 - e) * log_p[pid] + e * log_p.mean()
    return total / len(pids)


def hinge(features: np.ndarray, pids: np.ndarray, margin: float) -> float:
    total = 0.0
    for i, pid in enumerate(pids):
        d = [np.linalg.norm(features[i] - other) for other in features]
        positive = max(d[j] for j in range(len(pids)) if pids[j] == pid)
        negative = min(d[j] for j in range(len(pids)) if pids[j] != pid)
        total += max(0.0, positive - negative + margin)
    return total / len(pids)


def output(parts: int = 1) -> tuple[HeadOutput, torch.Tensor]:
    torch.manual_seed(1)
    pids = torch.tensor([0, 0, 3, 3, 7, 7])
    return HeadOutput([torch.randn(6, 12) for _ in range(parts)], [torch.randn(6, 96) for _ in range(parts)]), pids


def test_terms_of_bot(people: Path) -> None:
    method, (out, pids) = make(BoT, BoTConfig, people, num_instances=2), output()
    logits, features, ids = out.logits[0].double().numpy(), out.features[0].double().numpy(), pids.numpy()
    first, second = (method.terms(out, pids, at(0)) for _ in range(2))
    assert {name: weight for name, (weight, _) in first.items()} == {"id_loss": 1.0, "triplet": 1.0, "center": 5e-4}
    assert float(first["id_loss"][1]) == pytest.approx(smoothed(logits, ids, 0.1), rel=1e-5)
    assert float(first["triplet"][1]) == pytest.approx(hinge(features, ids, 0.3), rel=1e-5)
    assert float(first["center"][1]) == pytest.approx((features**2).sum(1).mean() / 2, rel=1e-5)  # centres begin at 0
    centers = np.zeros((12, 96))
    for pid in (0, 3, 7):  # Wen et al., equation 4: two images each
        centers[pid] += 0.5 * features[ids == pid].sum(0) / (1 + 2)
    left = ((features - centers[ids]) ** 2).sum(1).mean() / 2
    assert float(second["center"][1]) == pytest.approx(left, rel=1e-5)


@pytest.mark.parametrize("name", ["arcface", "cosface", "amsoftmax", "circle"])
def test_margins_on_the_neck(people: Path, name: str) -> None:
    """The classifier gives cosines, and what the margin makes of them is classified."""
    method = make(TransReID, TransReIDConfig, people, num_instances=2, id_loss=name, id_scale=16.0, id_margin=0.2)
    x, pids = torch.randn(6, 3, 32, 16), torch.tensor([0, 0, 3, 3, 7, 7])
    with torch.no_grad():
        out = method.network(x)
        assert float(out.logits[0].abs().max()) <= 1
        expected = nn.functional.cross_entropy(MARGIN[name](out.logits[0], pids, scale=16, margin=0.2), pids)
        assert torch.allclose(method.terms(out, pids, at(0))["id_loss"][1], expected)
    normed = nn.functional.normalize(method.network.head.bottleneck(out.features[0]))
    weight = nn.functional.normalize(method.network.head.classifier.weight)
    torch.testing.assert_close(out.logits[0], (normed @ weight.T).detach(), atol=1e-5, rtol=1e-4)


def test_terms_of_the_baseline(people: Path) -> None:
    """Metric losses see the feature on the sphere; some are divided by the images; the warm-up scales everything."""
    settings = {"losses": "circle,lifted", "warmup_epochs": 2.0}
    method, (out, pids) = make(Baseline, BaselineConfig, people, **settings), output()
    unit = nn.functional.normalize(out.features[0])
    terms = method.terms(out, pids, at(1, iteration=5, iterations=10))
    assert {name: round(weight, 6) for name, (weight, _) in terms.items()} == {
        "id_loss": 0.775, "circle": round(0.775 / 6, 6), "lifted": 0.775,
    }  # fmt: skip
    assert float(terms["id_loss"][1]) == pytest.approx(smoothed(out.logits[0].numpy(), pids.numpy(), 0.0), rel=1e-5)
    for name in ("circle", "lifted"):
        assert torch.allclose(terms[name][1], PAIRWISE[name](unit, pids))
    method.world = World(1, 2, torch.device("cpu"))  # two ranks of 6 images are one of 12
    assert method.terms(out, pids, at(9))["circle"][0] == pytest.approx(1 / 12)


def test_pcb_adds_its_classifiers_up(people: Path) -> None:
    method, (out, pids) = make(pcb.PCB, PCBConfig, people, img_size=(96, 48)), output(6)
    expected = sum(smoothed(logits.numpy(), pids.numpy(), 0.0) for logits in out.logits)
    assert float(method.terms(out, pids, at(0))["id_loss"][1]) == pytest.approx(expected, rel=1e-5)


def test_jigsaw_lists_weigh_the_first_as_much_as_the_rest(people: Path) -> None:
    method, (out, pids) = make(TransReID, TransReIDConfig, people, num_instances=2), output(5)
    each = [smoothed(logits.numpy(), pids.numpy(), 0.0) for logits in out.logits]
    expected = 0.5 * each[0] + 0.5 * np.mean(each[1:])
    assert float(method.terms(out, pids, at(0))["id_loss"][1]) == pytest.approx(expected, rel=1e-5)


def test_the_settings_know_every_loss() -> None:
    assert set(METRIC_LOSSES) == {*PAIRWISE, *PROXIES}


# Rates


def test_bag_of_tricks_schedule() -> None:
    """3.5e-4 from epoch 10 on, a tenth of it from 40 and a hundredth from 70 on; linear from 0.01 before."""
    rates = [warmup_steps(t, base=3.5e-4, warmup=10, milestones=(40, 70)) for t in range(120)]
    for t, rate in enumerate(rates):
        expected = 3.5e-4 * (0.01 + 0.099 * t if t < 10 else 1 if t < 40 else 0.1 if t < 70 else 0.01)
        assert rate == pytest.approx(expected), t


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_baseline_schedule_is_torchs(people: Path, schedule: str) -> None:
    method = make(Baseline, BaselineConfig, people, epochs=30, schedule=schedule)
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.05, 0.005)]
    optimizer = torch.optim.SGD(groups, lr=0.05)
    theirs: Any = (
        torch.optim.lr_scheduler.StepLR(optimizer, 20, 0.1)
        if schedule == "step"
        else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30, 0.05 * 0.01)
    )
    for epoch in range(30):
        for group in optimizer.param_groups:
            assert method.rate(at(epoch), group["initial_lr"]) == pytest.approx(group["lr"], rel=1e-6)
        optimizer.step()
        theirs.step()


def test_loss_warmup_is_the_releases() -> None:
    factor, steps, epochs = 0.1, 20, 5
    for step in range(steps * 7):
        assert loss_warmup(step / steps, epochs) == pytest.approx(factor)
        factor = min(1.0, factor + 0.9 / (steps * epochs))
    assert loss_warmup(0, 0) == 1


def test_new_layers_learn_faster(people: Path) -> None:
    method = make(Baseline, BaselineConfig, people)
    head, trunk = method.optimizer.param_groups
    assert (head["base_lr"], trunk["base_lr"]) == (0.05, pytest.approx(0.005))
    assert {id(p) for p in head["params"]} == {id(p) for p in method.network.head.parameters()}
    assert {id(p) for p in trunk["params"]} == {id(p) for p in method.network.backbone.parameters()}
    assert head["nesterov"]


def test_layers_learn_the_slower_the_earlier_they_are() -> None:
    backbone = reidzoo.create_model("timm/test_vit", img_size=(32, 16))
    model = ReIDModel(backbone, BNNeck(backbone.embed_dim, 5))
    factors = layer_factors(model, 0.5)
    assert set(factors) == {f"backbone.{name}" for name, _ in backbone.named_parameters()}
    depth = len(backbone.blocks)
    levels = ["patch_embed.proj.weight", *(f"blocks.{i}.attn.qkv.weight" for i in range(depth)), "norm.weight"]
    found = [factors[f"backbone.{name}"] for name in levels]
    assert found == [*(0.5 ** (depth - i) for i in range(depth + 1)), 1.0]  # the last norm belongs to the last block
    groups = rate_groups(model, 0.1, lambda name: factors.get(name, 1.0))
    assert [g["lr"] for g in groups] == sorted((g["lr"] for g in groups), key=lambda lr: (lr != 0.1, lr))
    assert sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in model.parameters())
    assert layer_factors(model, 1.0) == {}
    with pytest.raises(ConfigError, match="group_matcher"):
        layer_factors(ReIDModel(Plain(), BNNeck(3, 5)), 0.5)


class Plain(nn.Flatten):
    embed_dim, pretrained_cfg = 3, {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 1, 1)}


# Freezing and averaging


def test_a_frozen_trunk_keeps_weights_and_statistics(people: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = reidzoo.create_model("timm/test_resnet", img_size=(32, 16))
    before = copy.deepcopy(model.state_dict())
    job = {**JOB, **SHORT["bot"], "weight_decay": 0.1}
    results = [
        finetune(
            model, f"folder:{people}", method="bot", output_dir=tmp_path / f"{n}", epochs=n, freeze_epochs=1, **job
        )
        for n in (1, 2)
    ]
    frozen, thawed = (result.model.backbone.state_dict() for result in results)
    assert all(torch.equal(before[k], frozen[k]) for k in before)
    assert not any(torch.equal(before[k], thawed[k]) for k in before)
    assert int(results[0].model.head.bottleneck.num_batches_tracked) > 0  # the head learns from the start


def test_the_average_by_hand(people: Path) -> None:
    method = make(BoT, BoTConfig, people, num_instances=2, ema=0.75)
    name, _ = next(iter(method.network.named_parameters()))
    expected = method.network.get_parameter(name).detach().double().numpy().copy()
    rng = np.random.default_rng(0)
    for step in range(4):
        value = rng.normal(size=expected.shape)
        with torch.no_grad():
            method.network.get_parameter(name).copy_(torch.from_numpy(value))
            method.network.head.bottleneck.running_mean.fill_(step)
        method.after_step(at(0, iteration=step))
        expected = 0.75 * expected + 0.25 * value
    assert method.trained() is method.average
    np.testing.assert_allclose(method.average.get_parameter(name).detach(), expected, atol=1e-6)
    assert float(method.average.head.bottleneck.running_mean[0]) == 3


# Images


def test_jitter_changes_brightness_by_at_most_its_strength() -> None:
    """On a grey image contrast and saturation show nothing, so what is seen is brightness."""
    image = Image.new("RGB", (16, 32), (100, 100, 100))
    flat = TrainTransform((32, 16), (0.0,) * 3, (1.0,) * 3, padding=0, erasing=0, jitter=0.1)
    values = []
    for seed in range(200):
        x = flat(image, np.random.default_rng(seed)) * 255
        assert float(x.max() - x.min()) < 0.01
        values.append(float(x.mean()))
    assert 90 <= min(values) < 91
    assert 109 < max(values) <= 110
    assert np.mean(values) == pytest.approx(100, abs=1)


# The defence


def test_features_turn_around_and_pixels_hardly_move() -> None:
    """On a linear network each step is known: all pixels move along the sign of the gradient, until the limit."""
    torch.manual_seed(0)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    shift, scale = (torch.tensor(x).view(3, 1, 1) for x in (mean, std))
    pixels = torch.randint(0, 256, (2, 3, 8, 4)) / 255
    clean = (pixels - shift) / scale
    net = nn.Sequential(nn.Flatten(), nn.Linear(96, 6, bias=False))
    weight = net[1].weight.detach().double().numpy()
    expected = np.empty((2, 3, 8, 4))
    for i in range(2):
        x = clean[i].double().numpy().reshape(-1)
        sigma = np.repeat(std, 32)
        first, start = weight @ x, x.copy()
        for _ in range(20):
            x = x - np.sign(weight.T @ (weight @ x + first)) / (255 * sigma)
            x = np.clip(x, start - 16 / (255 * sigma), start + 16 / (255 * sigma))
            levels = x * sigma + np.repeat(mean, 32)
            x = (np.clip(levels, 0, 1) - np.repeat(mean, 32)) / sigma
        expected[i] = x.reshape(3, 8, 4)
    moved = turn_around(net, clean, mean=mean, std=std)
    np.testing.assert_allclose(moved, expected, atol=1e-4)
    assert float(((moved - clean) * scale * 255).abs().max()) <= 16.01
    before, after = net(clean), net(moved)
    assert ((before * after).sum(1) < 0.6 * (before * before).sum(1)).all()


def test_changed_images_are_learned_too(people: Path) -> None:
    method = make(Baseline, BaselineConfig, people, adversarial=0.5, adversarial_every=2, dropout=0.0)
    x, pids = torch.randn(12, 3, 32, 16), torch.arange(12)
    twin = copy.deepcopy(method.network.train())
    values = method.loss(method.network, [x], pids, at(0))
    twin(x)  # the statistics of BatchNorm move
    changed = turn_around(copy.deepcopy(twin).eval(), x, mean=method.config.mean, std=method.config.std)
    expected = nn.functional.cross_entropy(twin(changed).logits[0], pids)
    assert torch.allclose(values["adversarial"], expected, atol=1e-5)
    assert torch.allclose(values["loss"], values["id_loss"] + 0.5 * expected, atol=1e-5)
    other = method.loss(method.network, [x], pids, at(0, iteration=1))
    assert float(other["adversarial"]) == 0
    assert all(p.requires_grad for p in method.network.parameters())
    assert method.network.head.training


# Unlabelled images


def test_pairs_of_views_come_in_late(people: Path) -> None:
    """When the teacher is there: behind each batch 8 images of the other data, then the same 8 with other draws."""
    method = make(Baseline, BaselineConfig, people, unlabelled=f"folder:{people}", epochs=15)
    assert method.plan(12).shape == (6, 12, 2)
    plan = method.plan(13)
    assert plan.shape == (6, 12 + 16, 2)
    np.testing.assert_array_equal(plan[:, :12], method.sampler.epoch(13))
    first, second = plan[:, 12:20], plan[:, 20:]
    np.testing.assert_array_equal(first[..., 0], second[..., 0])
    assert (first[..., 0] >= 72).all()
    assert len(np.unique(plan[:, 12:].reshape(-1, 2), axis=0)) == 6 * 16  # no view comes twice
    assert len(np.unique(first[..., 0])) == 48  # no image, before all have come
    assert not np.array_equal(plan, method.plan(14))
    assert (method.dataset.records.pid[72:] == -1).all()
    ranks = [PairSampler(72, 72, pairs=8, world_size=2, rank=rank, seed=0) for rank in (0, 1)]
    mine, other = (ranks[rank].beside(plan[:, :12], 8)[:, 12:] for rank in (0, 1))
    assert (mine[:, :8, 0] == mine[:, 8:, 0]).all()
    assert not np.isin(mine[:4, :8, 0], other[:4, :8, 0]).any()  # 64 of the first 72 images: nobody's twice


def test_disagreement_by_hand() -> None:
    torch.manual_seed(0)
    ours, theirs = ([torch.randn(4, 5) for _ in range(3)] for _ in range(2))

    def mean(logits: list[torch.Tensor]) -> np.ndarray:
        return np.mean([np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in map(torch.Tensor.numpy, logits)], 0)

    total, (p, q) = 0.0, (mean(ours), mean(theirs))
    for i in range(4):
        total += sum(p[i, c] * np.log(p[i, c] / q[i, c]) + q[i, c] * np.log(q[i, c] / p[i, c]) for c in range(5)) / 2
    assert float(disagreement(opinion(ours), opinion(theirs))) == pytest.approx(total / 4, rel=1e-5)


def test_the_teacher_teaches_on_unlabelled_images(people: Path) -> None:
    settings = {"unlabelled": f"folder:{people}", "unlabelled_weight": 2.0, "dropout": 0.0}
    method, x = make(Baseline, BaselineConfig, people, **settings), torch.randn(12 + 16, 3, 32, 16)
    pids = torch.cat([torch.arange(12), torch.full((16,), -1)])
    twin = copy.deepcopy(method.network.train())
    with torch.no_grad():
        method.teacher.head.block.classifier.weight.normal_()
    values = method.loss(method.network, [x], pids, at(59))
    id_loss = nn.functional.cross_entropy(twin(x[:12]).logits[0], pids[:12])
    ours = twin(x[12:20]).logits
    teacher = copy.deepcopy(method.teacher).eval()
    theirs = teacher.head.block.classifier(teacher(x[20:]))
    expected = disagreement(opinion(ours), opinion([theirs]))
    assert torch.allclose(values["unlabelled"], expected, atol=1e-6)
    assert torch.allclose(values["loss"], id_loss + 2 * expected, atol=1e-5)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert method.trained() is method.network


def test_the_teacher_by_hand(people: Path) -> None:
    """Once per epoch, from 0.8 of the run on: first a copy, then 0.996 of itself; statistics are copied."""
    method = make(Baseline, BaselineConfig, people, unlabelled=f"folder:{people}", epochs=10)
    weight, norm = method.network.head.block.reduce.weight, method.network.head.block.norm
    taught = method.teacher.head.block.reduce.weight
    first = expected = weight.detach().double().numpy().copy()
    rng = np.random.default_rng(0)
    for epoch in range(10):
        for iteration in range(3):
            value = rng.normal(size=first.shape)
            with torch.no_grad():
                weight.copy_(torch.from_numpy(value))
                norm.running_mean.fill_(10 * epoch + iteration)
            method.after_step(at(epoch, iteration=iteration, iterations=3))
        if epoch >= 8:
            expected = value if epoch == 8 else 0.996 * expected + 0.004 * value
            assert float(method.teacher.head.block.norm.running_mean[0]) == 10 * epoch + 2
        np.testing.assert_allclose(taught, expected, atol=1e-6)


def test_attention_by_a_setting(people: Path, tmp_path: Path) -> None:
    """USAM is in the trunk, learns as slowly, and is in what is saved."""
    method = make(Baseline, BaselineConfig, people, usam=True)
    plain = make(Baseline, BaselineConfig, people)
    _, trunk = method.optimizer.param_groups
    new = [p for m in method.network.modules() if isinstance(m, USAM) for p in m.parameters()]
    assert len(new) == 4
    assert {id(p) for p in new} <= {id(p) for p in trunk["params"]}
    assert len(trunk["params"]) == len(plain.optimizer.param_groups[1]["params"]) + 4
    reidzoo.weights.save_model(method.network, tmp_path)
    x = torch.randn(2, 3, 32, 16)
    found = reidzoo.create_model(f"local-dir:{tmp_path}").eval()(x)
    assert torch.equal(found, method.network.eval()(x))
    assert not torch.allclose(found, plain.network.eval()(x))


def test_two_softmaxes_of_the_release(people: Path) -> None:
    logits = [torch.randn(3, 5) for _ in range(6)]
    mean = sum(x.softmax(1) for x in logits) / 6
    for compat, expected in (("none", mean), ("layumi", mean.softmax(1))):
        method = make(pcb.PCB, PCBConfig, people, img_size=(96, 48), compat=compat)
        torch.testing.assert_close(method.opinion(logits), expected)


def test_a_run_with_unlabelled_images_and_proxies_goes_on(people: Path, tmp_path: Path) -> None:
    """It ends with the same bits, proxies and teacher included; a damaged unlabelled image is found before."""
    other = shutil.copytree(people, tmp_path / "other")
    broken = Path(reidzoo.load_dataset(f"folder:{other}").train.path[3])
    broken.write_bytes(b"no image")
    job = {**JOB, **SHORT["pcb"], "epochs": 6, "batch_size": 36, "unlabelled": f"folder:{other}", "method": "pcb"}
    job |= {"losses": "arcface", "dropout": 0.1}
    with pytest.raises(DataNotFoundError, match=r"unlabelled='folder:none' .*--unlabelled\): The folder"):
        finetune(
            "timm/test_resnet", f"folder:{people}", output_dir=tmp_path / "x", **{**job, "unlabelled": "folder:none"}
        )
    with pytest.raises(CorruptImageError, match=broken.name):
        finetune("timm/test_resnet", f"folder:{people}", output_dir=tmp_path / "x", **job)
    job["skip_corrupt"] = True
    whole = finetune("timm/test_resnet", f"folder:{people}", output_dir=tmp_path / "a", **job)
    rows = read_history(tmp_path / "a" / "metrics.jsonl", "step")
    assert ["unlabelled" in row for row in rows] == [False] * 10 + [True] * 2
    make_stopped(people, tmp_path / "b", job, steps=11)
    again = finetune("timm/test_resnet", f"folder:{people}", output_dir=tmp_path / "b", **job)
    for (name, a), b in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    a, b = (_checkpoint.load(tmp_path / name / "checkpoints" / "last.pt")["method"] for name in "ab")
    assert len(a["proxies"]) == job["parts"]
    for part in ("proxies", "unlabelled"):
        for name, tensor in a[part].items():
            assert torch.equal(tensor, b[part][name]), name
    started = a["proxies"]["arcface.0.weight"].std()
    assert float(started) == pytest.approx(1, abs=0.1)
    network = reidzoo.create_model(f"local-dir:{tmp_path / 'a' / 'checkpoints' / 'last.pt'}").eval()
    x = torch.randn(2, 3, 64, 32)
    assert torch.equal(network(x), whole.model(x))  # the student's, neither the teacher's nor the proxies


# Proxies


@pytest.mark.parametrize("kind", ["learned", "frozen"])
def test_proxies_beside_the_classifier(people: Path, kind: str) -> None:
    """Each loss has its own, drawn from N(0, 1); the release leaves them as they are and divides by the images."""
    settings = {"losses": "arcface,cosface,sphereface", "proxies": kind}
    method, (out, pids) = make(Baseline, BaselineConfig, people, bottleneck=96, **settings), output()
    unit = nn.functional.normalize(out.features[0])
    values = {"arcface": (64, math.radians(28.6)), "cosface": (64, 0.35), "sphereface": (1, 4)}
    terms = method.terms(out, pids, at(0))
    weights = {name: method.proxies[name][0].weight for name in values}
    for name, (scale, margin) in values.items():
        cosines = unit @ nn.functional.normalize(weights[name]).T
        expected = cross_entropy(MARGIN[name](cosines, pids, scale=scale, margin=margin), pids)
        torch.testing.assert_close(terms[name][1], expected)
        assert terms[name][0] == pytest.approx(1 / 6)
        assert float(weights[name].detach().std()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(weights["arcface"], weights["cosface"])
    learn = {id(p) for group in method.optimizer.param_groups for p in group["params"]}
    assert {id(p) in learn for p in weights.values()} == {kind == "learned"}
    assert not any("prox" in name for name in method.network.state_dict())
    method.set_rates(at(50))
    rates = [group["lr"] for group in method.optimizer.param_groups]
    assert rates == pytest.approx([0.005, 0.0005, 0.005] if kind == "learned" else [0.005, 0.0005])


def test_the_scale_of_the_instance_losses(people: Path) -> None:
    method, (out, pids) = make(Baseline, BaselineConfig, people, losses="instance", instance_scale=64.0), output()
    unit = nn.functional.normalize(out.features[0]).double().numpy()
    logits = 64 * unit @ unit.T
    expected = smoothed(logits, np.arange(6), 0.0)
    weight, value = method.terms(out, pids, at(0))["instance"]
    assert (float(value), weight) == (pytest.approx(expected, abs=1e-5), pytest.approx(1 / 6))


# What is refused


@pytest.mark.parametrize(
    ("config", "settings", "match"),
    [
        (BaselineConfig, {"losses": "circle,tripet"}, "losses has 'tripet', expected some of .* Did you mean"),
        (BoTConfig, {"num_instances": 1}, "expected at least 2"),
        (BoTConfig, {"num_instances": 3}, "batch_size 64 is not a multiple of num_instances 3"),
        (BoTConfig, {"milestones": (70.0, 40.0)}, "milestones"),
        (BoTConfig, {"layer_decay": 0.0}, "layer_decay is 0.0"),
        (BoTConfig, {"ema": 1.0}, "ema is 1.0, expected 0 to below 1"),
        (BaselineConfig, {"unlabelled": "folder:x", "epochs": 5}, "epochs is 5, but unlabelled images .* at least 6"),
        (BaselineConfig, {"unlabelled": "folder:x", "micro_batch": 8}, "leave one of them out"),
        (BaselineConfig, {"losses": "instance", "instance_scale": 0.0}, "instance_scale is 0.0"),
        (PCBConfig, {"pool": "average"}, "PCB pools its parts"),
        (BaselineConfig, {"adversarial_every": 0}, "adversarial_every is 0"),
        (PCBConfig, {"parts": 0}, "parts is 0"),
        (PCBConfig, {"last_stride": 2}, "last_stride is 2, but the parts of PCB"),
        (BoTConfig, {"last_stride": 3}, "last_stride is 3, expected 1, 2, or 0"),
        (TransReIDConfig, {"id_loss": "archface"}, "id_loss is 'archface', expected one of softmax"),
        (TransReIDConfig, {"freeze_epochs": -1}, "freeze_epochs is -1"),
    ],
)
def test_settings_that_make_no_sense(config: type, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        config(**settings)
    if settings.get("num_instances") == 1:  # without a triplet loss random batches are fine
        config(num_instances=1, triplet_weight=0.0)
