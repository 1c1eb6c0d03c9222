"""MGN against plain computations: layers and sizes, losses, batches, rates, the freeze, erasing, a short run."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import reidzoo
from reidzoo.data._pixel_ops import constant_erasing
from reidzoo.data.samplers import PKSampler
from reidzoo.data.transforms import EvalTransform, TrainTransform
from reidzoo.errors import ConfigError
from reidzoo.models.heads import HeadOutput, ReIDModel
from reidzoo.models.heads.mgn import PARTS
from reidzoo.models.layers import GeM
from reidzoo.training import _engine
from reidzoo.training._checkpoint import RunFolder
from reidzoo.training._distributed import World
from reidzoo.training._doubts import doubts
from reidzoo.training._engine import Progress, fit
from reidzoo.training.configs import MGNConfig
from reidzoo.training.methods.mgn import MGN, EndlessPKSampler
from reidzoo.training.schedules import warmup_hold_cosine
from reidzoo.weights import read_metadata, save_model

MODEL = "timm/test_resnet"
SIZE = (96, 32)  # six rows at stride 16: three stripes of two
JOB: dict[str, Any] = {
    **{"img_size": SIZE, "epochs": 6, "batch_size": 12, "num_instances": 3, "lr": 3e-3, "padding": 2},
    **{"warmup_epochs": 1, "hold_epochs": 3, "freeze_epochs": 1, "num_workers": 0, "device": "cpu"},
}


def built(name: str = MODEL, seed: int = 0) -> Any:
    """A model whose every tensor is random: norms, exponents and statistics too."""
    torch.manual_seed(seed)
    model = reidzoo.create_model(name, img_size=SIZE, head="mgn", num_classes=5)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.ndim == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
        for part in model.head.parts.values():
            part.pool.p.fill_(2.5)
    return model


# ---- the network


@pytest.mark.parametrize(("name", "millions"), [("resnet50", 68.8), ("resnet101_ibn", 125.8)])
def test_sizes_are_the_published_ones(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = reidzoo.create_model(name, head="mgn", num_classes=751, img_size=(384, 128))
    classifiers = sum(part.classifier.weight.numel() for part in model.head.parts.values())
    assert classifiers == 8 * 256 * 751
    assert sum(p.numel() for p in model.parameters()) - classifiers == pytest.approx(millions * 1e6, abs=5e4)
    assert model.embed_dim == 2048
    maps = model.head.read(model.backbone, torch.empty(1, 3, 384, 128, device="meta"))
    assert [tuple(y.shape) for y in maps] == [(1, 2048, 24, 8)] * 3
    # the trunk ends behind the first block of the third stage
    assert model.head.shared[-1] == "layer3.0"
    assert len(model.head.end) == len(model.backbone.layer3) - 1 + 3


def plain_part(part: nn.Module, y: np.ndarray) -> np.ndarray:
    """GeM, 1x1 convolution and batch norm in eval mode, of a stripe (B, D, h, w)."""
    t = {k: v.double().numpy() for k, v in part.state_dict().items()}
    p = t["pool.p"][0]
    pooled = np.array([[(np.maximum(c, 1e-6) ** p).mean() ** (1 / p) for c in image] for image in y])
    z = pooled @ t["reduce.weight"].T
    normed = (z - t["norm.running_mean"]) / np.sqrt(t["norm.running_var"] + 1e-5)
    return normed * t["norm.weight"] + t["norm.bias"]


@torch.no_grad()
def test_embedding_is_that_of_a_plain_computation() -> None:
    model = built().eval()
    for p in model.head.branches.parameters():
        p.mul_(1.1)  # the branches are no longer alike
    x = torch.randn(2, 3, *SIZE)
    maps = [model.backbone.forward_features(x)]
    for branch in model.head.branches:
        whole = copy.deepcopy(model.backbone)  # a network of its own, ending in this branch
        whole.layer4 = branch  # the tiny network's third stage has one block
        maps.append(whole.forward_features(x))
    assert not torch.equal(maps[0], maps[1])
    parts = []
    normed = []
    for norm, y in zip(model.head.norms, maps, strict=True):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        normed.append((y * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).double().numpy())
    one, two, three = normed
    rows = [one, two, three, two[:, :, :3], two[:, :, 3:], three[:, :, :2], three[:, :, 2:4], three[:, :, 4:]]
    parts = [plain_part(model.head.parts[name], y) for name, y in zip(PARTS, rows, strict=True)]
    np.testing.assert_allclose(model(x).numpy(), np.concatenate(parts, 1), rtol=1e-4, atol=1e-4)


def test_training_output_has_eight_cosines_and_five_features() -> None:
    model = built().train()
    x = torch.randn(4, 3, *SIZE)
    out = model(x)
    assert isinstance(out, HeadOutput)
    assert [tuple(t.shape) for t in out.logits] == [(4, 5)] * 8
    assert [t.shape[1] for t in out.features] == [256, 256, 256, 512, 768]
    z = dict(zip(("b1", "b2", "b3"), out.features[:3], strict=True))
    z |= {"b21": out.features[3][:, :256], "b22": out.features[3][:, 256:]}
    z |= {f"b3{i + 1}": out.features[4][:, 256 * i : 256 * (i + 1)] for i in range(3)}
    for name, cosines in zip(PARTS, out.logits, strict=True):
        w = model.head.parts[name].classifier.weight.detach().numpy()
        a = z[name].detach().numpy()
        expected = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
        np.testing.assert_allclose(cosines.detach().numpy(), expected, atol=1e-5)
    (sum(t.square().sum() for t in out.logits) + sum(t.sum() for t in out.features)).backward()
    shifts = {f"head.parts.{name}.norm.bias" for name in PARTS}
    assert {n for n, p in model.named_parameters() if p.grad is None} == shifts
    # the branches are tensors of their own
    first, second, third = (model.backbone.layer4[0], *(branch[0] for branch in model.head.branches))
    grads = [next(block.parameters()).grad for block in (first, second, third)]
    assert not torch.equal(grads[0], grads[1])
    assert not torch.equal(grads[1], grads[2])


def test_start() -> None:
    torch.manual_seed(0)
    model = reidzoo.create_model(MODEL, img_size=SIZE, head="mgn", num_classes=700)
    for branch in model.head.branches:
        for ours, theirs in zip(branch.parameters(), model.backbone.layer4.parameters(), strict=True):
            assert torch.equal(ours, theirs)
            assert ours is not theirs
    part = model.head.parts["b1"]
    assert part.pool.p.tolist() == [3.0]
    assert float(part.reduce.weight.detach().std()) == pytest.approx(math.sqrt(2 / 256), rel=0.02)
    assert float(part.norm.weight.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert not part.norm.bias.requires_grad
    bound = 1 / math.sqrt(256)
    assert 0.99 * bound < float(part.classifier.weight.detach().abs().max()) <= bound
    assert all(torch.equal(n.weight, torch.ones(96)) and n.weight.requires_grad for n in model.head.norms)


def test_branches_follow_the_weights_that_are_loaded(tmp_path: Path) -> None:
    file = save_model(built(seed=1).backbone, tmp_path / "backbone")
    model = reidzoo.create_model(MODEL, weights=file, img_size=SIZE, head="mgn", num_classes=5)
    expected = [t for t in model.backbone.layer4.state_dict().values() if t.ndim]
    for branch in model.head.branches:
        assert all(map(torch.equal, expected, [t for t in branch.state_dict().values() if t.ndim]))


@pytest.mark.parametrize(
    ("name", "end", "width"),
    [
        ("resnet18_ibn", "layer3.1", 512),
        ("timm/res2net50_26w_4s", "layer3.1", 2048),
        ("timm/test_convnext", "stages.3", 64),
        ("timm/test_nfnet", "stages.3", 192),
        ("edgenext_x_small", "stages.3", 192),
        ("ghostnet_0_5", "blocks.6", 480),  # its feature has 1280, by a layer behind the pooling
        ("timm/test_efficientnet", "blocks.4", 256),
        ("timm/test_mambaout", "stages.3", 64),  # channels last
        ("timm/regnetx_002", "s4", 368),
        ("timm/densenet121", "features.transition3", 1024),
        ("timm/swin_s3_tiny_224", "layers.3", 768),  # channels last
    ],
)
def test_trunk_and_end_are_the_backbone(name: str, end: str, width: int) -> None:
    model = reidzoo.create_model(name, img_size=SIZE, head="mgn", num_classes=5)
    modes = [module.training for module in model.modules()]
    assert all(modes), "as it was before the layers were looked at"
    assert f"{model.head.end[0]}.".startswith(f"{end}.")
    model.eval()
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        maps = model.head.read(model.backbone, x)
        expected = model.backbone.forward_features(x)
        if expected.shape[1] != width:
            expected = expected.permute(0, 3, 1, 2)
        assert expected.shape[1] == width
        assert len(maps) == 3
        assert all(torch.equal(y, expected) for y in maps)
        for p in model.head.branches[1].parameters():
            p.mul_(1.1)
        again = model.head.read(model.backbone, x)
    assert torch.equal(again[1], expected)
    assert not torch.equal(again[2], expected)  # a branch of its own


def test_recomputed_activations_give_the_same_gradients() -> None:
    grads = []
    for recompute in (False, True):
        model = built().train()
        model.backbone.set_grad_checkpointing(recompute)
        torch.manual_seed(1)
        out = model(torch.randn(4, 3, *SIZE))
        sum(t.square().sum() for t in (*out.logits, *out.features)).backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1])
    assert all(map(torch.equal, *grads))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"stages that can be copied.*'timm/test_vit' is none.*--method transreid"):
        reidzoo.create_model("timm/test_vit", img_size=(32, 16), head="mgn", num_classes=5)
    with pytest.raises(ConfigError, match=r"3 stripes, but this one has 2 rows.*384, 128"):
        built()(torch.randn(2, 3, 32, 32))
    with pytest.raises(ConfigError, match=r"hold_epochs 5\.0 ends before warmup_epochs 10\.0"):
        MGNConfig(hold_epochs=5.0)
    with pytest.raises(ConfigError, match=r"layer_decay is 0\.5, but"):
        MGNConfig(layer_decay=0.5)


def test_a_freeze_without_end_is_doubted(people: Path) -> None:
    train = reidzoo.load_dataset(f"folder:{people}").train
    said = list(doubts(MGNConfig(epochs=10, num_instances=4), train))
    assert len(said) == 2
    assert "warmup_epochs is 10" in said[0]
    assert "freeze_epochs is 10, but the run has 10 epochs: the pre-trained part never learns" in said[1]
    assert not list(doubts(MGNConfig(num_instances=4), train))


# ---- the loss


def plain_loss(cosines: list[np.ndarray], features: list[np.ndarray], pids: list[int]) -> float:
    """Spec B.2 in loops: circle logits with s 64 and m 0.35, smoothing among the others, soft batch-hard triplets."""
    total = 0.0
    for matrix in cosines:
        for row, pid in zip(matrix, pids, strict=True):
            logits = [64 * max(0, c + 0.35) * (c - 0.35) for c in row]
            logits[pid] = 64 * max(0, 1.35 - row[pid]) * (row[pid] - 0.65)
            shift = max(logits)
            log_sum = shift + math.log(sum(math.exp(v - shift) for v in logits))
            for k, value in enumerate(logits):
                target = 0.9 if k == pid else 0.1 / (len(row) - 1)
                total += 0.125 * target * (log_sum - value) / len(pids)
    for z in features:
        for i, a in enumerate(z):
            distance = [math.sqrt(float(((a - b) ** 2).sum())) for b in z]
            far = max(d for d, pid in zip(distance, pids, strict=True) if pid == pids[i])
            near = min(d for d, pid in zip(distance, pids, strict=True) if pid != pids[i])
            total += 0.2 * math.log(1 + math.exp(far - near)) / len(pids)
    return total


def test_loss_is_that_of_plain_loops() -> None:
    rng = np.random.default_rng(0)
    pids = [0, 0, 0, 1, 1, 3, 3, 3]
    cosines = [rng.uniform(-1, 1, (8, 5)).astype(np.float32) for _ in PARTS]
    features = [rng.normal(size=(8, d)).astype(np.float32) for d in (4, 4, 4, 8, 12)]
    method = MGN.__new__(MGN)
    method.config = MGNConfig()
    output = HeadOutput([torch.from_numpy(c) for c in cosines], [torch.from_numpy(f) for f in features])
    terms = method.terms(output, torch.tensor(pids), None)  # type: ignore[arg-type]
    loss = sum(weight * value for weight, value in terms.values())
    assert float(loss) == pytest.approx(plain_loss(cosines, features, pids), rel=1e-5)


def test_gem_between_average_and_maximum() -> None:
    x = torch.rand(2, 3, 4, 5)
    pool = GeM()
    np.testing.assert_allclose(pool(x).detach().numpy(), (x.numpy() ** 3).mean((2, 3)) ** (1 / 3), rtol=1e-5)
    pool.p.data.fill_(1.0)
    torch.testing.assert_close(pool(x).detach(), x.mean((2, 3)))
    assert float(pool(torch.zeros(1, 1, 2, 2)).detach()) == pytest.approx(1e-6)


# ---- when and on what


def test_rates_of_the_published_schedule() -> None:
    c = MGNConfig()
    found = {
        t: warmup_hold_cosine(t, epochs=c.epochs, base=c.lr, final=c.min_lr, warmup=c.warmup_epochs, hold=c.hold_epochs)
        for t in (0, 5, 10, 29.99, 30, 45, 60, 61)
    }
    middle = (3.5e-4 + 7.7e-7) / 2
    expected = {0: 3.5e-6, 5: 1.7675e-4, 10: 3.5e-4, 29.99: 3.5e-4, 30: 3.5e-4, 45: middle, 60: 7.7e-7, 61: 7.7e-7}
    assert found == pytest.approx(expected, rel=1e-9)


def test_epochs_are_windows_of_an_endless_stream() -> None:
    """Epochs of len(train) // batch steps, whatever the length of a pass: shorter (few images each) or longer."""
    for counts, longer in (([2] * 8, True), ([7] * 9, False)):
        pids = np.repeat(np.arange(len(counts)), counts)
        passes = PKSampler(pids, batch_size=12, num_instances=4, seed=3)
        ours = EndlessPKSampler(pids, batch_size=12, num_instances=4, seed=3)
        stream = np.concatenate([passes.epoch(i)[..., 0] for i in range(7)])
        steps = len(pids) // 12
        assert (len(passes.epoch(0)) > steps) == longer
        epochs = [ours.epoch(i) for i in (0, 1, 2, 3)]
        assert [len(e) for e in epochs] == [steps] * 4
        np.testing.assert_array_equal(np.concatenate(epochs)[..., 0], stream[: 4 * steps])
        # an image that comes again within an epoch gets another augmentation
        for epoch in epochs:
            drawn = list(map(tuple, epoch.reshape(-1, 2)))
            assert len(set(drawn)) == len(drawn)


def test_ranks_take_turns_at_the_images() -> None:
    pids = np.repeat(np.arange(9), 16)
    whole = EndlessPKSampler(pids, batch_size=16, num_instances=8, seed=1).epoch(2)
    ranks = [
        EndlessPKSampler(pids, batch_size=8, num_instances=8, world_size=2, rank=r, seed=1).epoch(2) for r in (0, 1)
    ]
    np.testing.assert_array_equal(np.stack(ranks, 2).reshape(whole.shape), whole)
    for rank in ranks:
        for batch in pids[rank[..., 0]]:
            assert np.unique(batch, return_counts=True)[1].tolist() == [4, 4]


def test_black_rectangles() -> None:
    """Uniform share of 2 to 40 %, uniform aspect of 0.3 to 3.33, and black before the normalisation."""
    rng = np.random.default_rng(0)
    shares, aspects = [], []
    for _ in range(400):
        x = constant_erasing(torch.ones(3, 120, 120), rng, torch.zeros(3, 1, 1))
        rows, columns = np.nonzero(x[0].numpy() == 0)
        h, w = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == h * w
        shares.append(h * w / 120**2)
        aspects.append(h / w)
    assert 0.019 < min(shares) < 0.03
    assert 0.35 < max(shares) < 0.402
    assert 0.29 < min(aspects) < 0.35
    assert 2.9 < max(aspects) < 3.5
    # uniform, not log-uniform (mean 1.26); tall ones that do not fit are drawn again
    assert 1.5 < np.mean(aspects) < 1.83
    transform = TrainTransform((96, 48), padding=0, erasing=1.0, erasing_fill="black")
    out = transform(Image.new("RGB", (48, 96), (255, 200, 100)), np.random.default_rng(1))
    raw = (out - transform.normalize.bias) / transform.normalize.scale
    colours = {tuple(c) for c in raw.round().int().flatten(1).T.tolist()}
    assert colours == {(0, 0, 0), (255, 200, 100)}
    with pytest.raises(ConfigError, match="'white'; expected one of noise, black, mean"):
        TrainTransform(erasing_fill="white")


# ---- a run


def test_the_network_rests_while_the_head_learns(people: Path) -> None:
    torch.manual_seed(0)
    config = MGNConfig(**{**JOB, "freeze_epochs": 2})
    backbone = reidzoo.create_model(MODEL, img_size=SIZE)
    method = MGN(backbone, reidzoo.load_dataset(f"folder:{people}"), config, World(0, 1, torch.device("cpu")))
    resting, head = [backbone, method.network.head.branches], [method.network.head.norms, method.network.head.parts]

    def tensors(modules: list[nn.Module]) -> list[torch.Tensor]:
        return [t.clone() for m in modules for k, t in m.state_dict().items() if t.ndim and not k.endswith("norm.bias")]

    def step(epoch: int) -> None:
        """As the engine makes it, also after an evaluation that left everything in training mode."""
        method.network.train()
        progress = Progress(epoch, 0, 1, epoch)
        method.set_rates(progress)
        method.optimizer.zero_grad()
        images, pids = torch.randn(6, 3, *SIZE), torch.tensor([0, 0, 1, 1, 2, 2])
        method.loss(method.network, [images], pids, progress)["loss"].backward()
        method.before_step(progress)
        method.optimizer.step()

    still, learning = tensors(resting), tensors(head)
    for epoch in (0, 1):
        step(epoch)
        assert all(p.grad is None for module in resting for p in module.parameters())
        assert all(map(torch.equal, still, tensors(resting)))  # BatchNorm's statistics among them
        assert not any(map(torch.equal, learning, tensors(head)))
    step(2)
    step(3)  # the first one moves the last norm of a block, which starts at zero, before those that it hides
    assert not any(map(torch.equal, still, tensors(resting)))
    steps = {int(state["step"]) for state in method.optimizer.state.values()}
    assert steps == {2, 4}  # what rested has no history of Adam's


def test_several_ranks_are_told_which_gradients_come(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDP waits for all that it was told of: neither what rests nor a norm that no head reads may be among it."""
    data, wrapped = reidzoo.load_dataset(f"folder:{people}"), []
    config = MGNConfig(**{**JOB, "epochs": 2, "batch_size": 24, "num_instances": 6, "eval_every": 0})

    def trained(name: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        backbone = reidzoo.create_model("timm/test_convnext", img_size=SIZE)
        method = MGN(backbone, data, config, World(0, 2, torch.device("cpu")))
        (tmp_path / name).mkdir()
        fit(method, config, RunFolder(tmp_path / name), World(0, 1, torch.device("cpu")), resume=False)
        norm = set(backbone.head.norm.parameters())
        for p in backbone.parameters():
            assert p.requires_grad == (p not in norm)
        return method.network.state_dict()

    def distribute(network: nn.Module, _: World) -> nn.Module:
        wrapped.append([name for name, p in network.named_parameters() if p.requires_grad])
        return DistributedDataParallel(network)

    plain = trained("plain")
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        monkeypatch.setattr(_engine, "distribute", distribute)
        told = trained("ranks")
    finally:
        dist.destroy_process_group()
    first, second = wrapped
    assert all(name.startswith(("head.norms.", "head.parts.")) for name in first)
    assert "backbone.stem.0.weight" in second
    assert "backbone.head.norm.weight" not in second
    for name, tensor in plain.items():
        assert torch.equal(told[name], tensor), name


def test_it_learns_and_the_file_is_the_model(people: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = reidzoo.finetune(MODEL, f"folder:{people}", method="mgn", output_dir=tmp_path / "run", **JOB)
    assert result.history[-1]["loss"] < 0.6 * result.history[0]["loss"]
    again = reidzoo.create_model(f"local-dir:{tmp_path / 'run'}").eval()
    assert isinstance(again, ReIDModel)
    x = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))
    # test images are resized as the training images are, in memory and from the file
    assert read_metadata(result.checkpoint)["interpolation"] == "bicubic"
    image = Image.open(next((people / "query").rglob("*.jpg")))
    for model in (result.model, again):
        got = reidzoo.create_transform(model)(image)
        assert torch.equal(got, EvalTransform(SIZE, interpolation="bicubic")(image))
        assert not torch.equal(got, EvalTransform(SIZE)(image))
    assert reidzoo.evaluate(again, f"folder:{people}", num_workers=0).mAP == pytest.approx(result.metrics["mAP"])
