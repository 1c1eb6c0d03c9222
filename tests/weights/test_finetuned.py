"""Fine-tuned networks of other code, written as that code writes them, against its networks in plain torch."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import reidzoo
from reidzoo.cli.main import main
from reidzoo.errors import CheckpointError
from reidzoo.models import to_official
from reidzoo.weights import Weights, read_metadata
from reidzoo.weights._finetuned import as_ours
from reidzoo.weights._identify import identify

CLASSES = 5
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` in eval mode, with statistics and scales in its norms that are not those it starts with."""
    generator = torch.Generator().manual_seed(seed)
    for name, t in module.state_dict().items():
        if t.is_floating_point() and t.ndim == 1:
            t.copy_(torch.rand(t.shape, generator=generator) + (0.5 if "var" in name or "weight" in name else -0.5))
    return module.eval()


def plain_resnet(name: str, *, stride: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = getattr(torchvision.models, name)(weights=None)
    first = net.layer4[0]
    for conv in (first.conv2 if hasattr(first, "conv3") else first.conv1, first.downsample[0]):
        conv.stride = (stride, stride)
    return shaken(net, seed)


def last_map(net: nn.Module, x: Tensor) -> Tensor:
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
    return x


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: t for key, t in state.items()}


def images(seed: int = 7) -> Tensor:
    return torch.randn(3, 3, 96, 32, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def same_output(file: Path, expected: Tensor) -> nn.Module:
    model = reidzoo.create_model(f"local-dir:{file}").eval()
    torch.testing.assert_close(model(images()), expected, atol=2e-4, rtol=1e-3)
    return model


def wants(model: nn.Module, size: tuple[int, int], statistics: tuple[tuple[float, ...], ...]) -> None:
    cfg = model.pretrained_cfg
    assert (tuple(cfg["input_size"][1:]), tuple(cfg["mean"]), tuple(cfg["std"])) == (size, *statistics)
    assert cfg["interpolation"] == ("bicubic" if statistics == IMAGENET else "bilinear")


@pytest.fixture(scope="module")
def cion_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    net = plain_resnet("resnet18", stride=1)
    state = {k: t for k, t in net.state_dict().items() if not k.startswith("fc.")}
    neck = shaken(nn.BatchNorm1d(512), 1)
    state = prefixed("base.", state) | prefixed("bottleneck.", neck.state_dict())
    state["classifier.weight"] = torch.randn(CLASSES, 512)
    file = tmp_path_factory.mktemp("cion") / "resnet18_120.pth"
    torch.save(prefixed("module.", state), file)  # as after training on several GPUs
    return file, net


def test_cion(cion_file: tuple[Path, nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The embedding is the feature before the neck; images are normalised as fine-tuning did it."""
    file, net = cion_file
    with torch.no_grad():
        model = same_output(file, last_map(net, images()).mean((2, 3)))
    wants(model, (256, 128), ((0.5,) * 3, (0.5,) * 3))
    assert model.reidzoo_name == "resnet18"
    assert model.head.classifier.weight.shape == (CLASSES, 512)
    assert model.head.bottleneck.running_mean.abs().sum() > 0
    with pytest.raises(CheckpointError, match=r"was fine-tuned \(TransReID\), not the released backbone"):
        reidzoo.weights.import_official(file)
    # Named, the file gives the backbone, for the same images.
    backbone = reidzoo.create_model("resnet18", weights=file).eval()
    wants(backbone, (256, 128), ((0.5,) * 3, (0.5,) * 3))
    torch.testing.assert_close(backbone(images()), model(images()))
    people = reidzoo.data.write_synthetic(tmp_path / "people", identities=4, cameras=2, images=2, size=(64, 32))
    assert main(["evaluate", str(file), f"synthetic:{people}", "--img-size", "64x32", "--num-workers", "0"]) == 0
    assert "mAP" in capsys.readouterr().out


def test_margin_heads(cion_file: tuple[Path, nn.Module], tmp_path: Path) -> None:
    """AM-softmax has its classes as columns, under another name; the other margins' are rows as everywhere."""
    file, net = cion_file
    state = torch.load(file)
    classes = state.pop("module.classifier.weight")
    torch.save({**state, "module.classifier.W": classes.T.contiguous()}, tmp_path / "resnet18_60.pth")
    with torch.no_grad():
        model = same_output(tmp_path / "resnet18_60.pth", last_map(net, images()).mean((2, 3)))
    wants(model, (256, 128), ((0.5,) * 3, (0.5,) * 3))
    assert model.head.num_classes == CLASSES
    assert torch.equal(model.head.classifier.weight, classes)
    torch.save(state, tmp_path / "resnet18.pth")  # without the classes there is the embedding alone
    with torch.no_grad():
        assert torch.equal(reidzoo.create_model(f"local-dir:{tmp_path / 'resnet18.pth'}").eval()(images()),
                           model(images()))  # fmt: skip


def test_a_reduced_feature(cion_file: tuple[Path, nn.Module], tmp_path: Path) -> None:
    """A linear layer stands before neck and classifier; a file of ours that it is saved to has it too."""
    file, net = cion_file
    state = torch.load(file)
    reduce, neck = nn.Linear(512, 24, bias=False), shaken(nn.BatchNorm1d(24), 4)
    state |= prefixed("module.bottleneck.", neck.state_dict()) | prefixed("module.fcneck.", reduce.state_dict())
    state["module.classifier.weight"] = torch.randn(CLASSES, 24)
    torch.save(state, tmp_path / "resnet18_120.pth")
    with torch.no_grad():
        expected = reduce(last_map(net, images()).mean((2, 3)))
    model = same_output(tmp_path / "resnet18_120.pth", expected)
    assert torch.equal(model.head.bottleneck.running_mean, neck.running_mean)
    again = same_output(reidzoo.weights.save_model(model, tmp_path / "ours.safetensors"), expected)
    assert again.embed_dim == 24


def test_what_cannot_be_read_is_said(cion_file: tuple[Path, nn.Module], tmp_path: Path) -> None:
    state = torch.load(cion_file[0])
    torch.save({**state, "module.fcneck.weight": torch.ones(2, 2), "module.bottleneck_1.weight": torch.ones(2)},
               tmp_path / "a.pth")  # fmt: skip
    with pytest.raises(
        CheckpointError, match=r"a\.pth was .* has fcneck \(a reduced feature\) and several necks, which"
    ):
        reidzoo.create_model(f"local-dir:{tmp_path / 'a.pth'}")
    torch.save({"model.layer3.0.conv1.weight": torch.ones(1), "classifier.add_block.0.weight": torch.ones(2, 2)},
               tmp_path / "c.pth")  # fmt: skip
    with pytest.raises(CheckpointError, match="written by Person_reID_baseline_pytorch, and its backbone is another"):
        reidzoo.create_model(f"local-dir:{tmp_path / 'c.pth'}")
    torch.save({"heads.bottleneck.0.weight": torch.ones(1), "backbone.NL_2.0.g.weight": torch.ones(1)},
               tmp_path / "d.pth")  # fmt: skip
    with pytest.raises(CheckpointError, match=r"written by fast-reid, with backbone\.NL_2\.0\.g\.weight: non-local"):
        reidzoo.create_model(f"local-dir:{tmp_path / 'd.pth'}")


def random_vit(width: int, tokens: int, special: Sequence[str], seed: int) -> dict[str, Tensor]:
    """The tensors of a ViT of 12 blocks without its patch embedding, large enough that each of them counts."""
    torch.manual_seed(seed)
    shapes = {"pos_embed": (1, tokens, width), "norm.weight": (width,), "norm.bias": (width,)}
    shapes |= dict.fromkeys(special, (1, 1, width))
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for i in range(12):
        for name, (to, of) in layers.items():
            shapes |= {f"blocks.{i}.{name}.weight": (to * width, of * width), f"blocks.{i}.{name}.bias": (to * width,)}
        shapes |= {f"blocks.{i}.norm{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")}
    draw = {name: torch.randn(shape) for name, shape in shapes.items()}
    norms = {name: 1 + 0.3 * t for name, t in draw.items() if "norm" in name and name.endswith("weight")}
    return {name: t / t.shape[-1] ** 0.5 if t.ndim == 2 else t for name, t in draw.items()} | norms


def block(state: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    """A block of a ViT with heads of 64, by hand."""

    def layer(name: str, y: Tensor) -> Tensor:
        return y @ state[f"{prefix}{name}.weight"].T + state[f"{prefix}{name}.bias"]

    batch, count, width = x.shape
    y = layer("attn.qkv", normed(state, f"{prefix}norm1.", x))
    q, k, v = y.reshape(batch, count, 3, width // 64, 64).permute(2, 0, 3, 1, 4)
    attention = torch.softmax(q @ k.transpose(2, 3) / 8, 3)
    x = x + layer("attn.proj", (attention @ v).transpose(1, 2).reshape(batch, count, width))
    return x + layer("mlp.fc2", F.gelu(layer("mlp.fc1", normed(state, f"{prefix}norm2.", x))))


def normed(state: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    return x * state[f"{prefix}weight"] + state[f"{prefix}bias"]


@torch.no_grad()
def test_transreid_with_jigsaw_cameras_and_overlap(tmp_path: Path) -> None:
    """At 384x128, stride 12 and six cameras: all of that is told by the shapes. The file's last block is unused."""
    net = random_vit(192, 1 + 31 * 10, ["cls_token"], 0) | {"sie_embed": torch.randn(6, 1, 192)}
    conv = nn.Sequential(
        *(nn.Conv2d(3, 64, 7, 2, 3, bias=False), IBN(64), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, 1, 1, bias=False), IBN(64), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
    )
    stem = nn.ModuleDict({"conv": shaken(conv, 1), "proj": nn.Conv2d(64, 192, 8, 6)})
    state = prefixed("base.", net | prefixed("patch_embed.", stem.state_dict()))
    state |= {"base.fc.weight": torch.ones(1000, 192), "base.fc.bias": torch.ones(1000)}  # of ImageNet, unused
    for branch, seed in (("b1", 1), ("b2", 2)):  # the last block and norm, learned apart
        other = random_vit(192, 1, [], seed)
        for part, inner in (("0", "blocks.11."), ("1", "norm.")):
            state |= {f"{branch}.{part}.{k.removeprefix(inner)}": t for k, t in other.items() if k.startswith(inner)}
    for suffix in ("", "_1", "_2", "_3", "_4"):
        state |= prefixed(f"bottleneck{suffix}.", shaken(nn.BatchNorm1d(192), 5).state_dict())
        state[f"classifier{suffix}.weight"] = torch.randn(CLASSES, 192)
    torch.save(prefixed("module.", state), tmp_path / "transformer_120.pth")

    x, cameras = torch.randn(2, 3, 384, 128), torch.tensor([4, 1])
    patches = stem["proj"](stem["conv"](x)).flatten(2).transpose(1, 2)
    assert patches.shape[1] == 310
    tokens = torch.cat([net["cls_token"].expand(2, -1, -1), patches], 1) + net["pos_embed"]
    tokens = tokens + 3 * net["sie_embed"][cameras]
    for i in range(11):
        tokens = block(net, f"blocks.{i}.", tokens)
    features = [normed(state, "b1.1.", block(state, "b1.0.", tokens))[:, 0]]
    rolled = torch.cat([tokens[:, 5:], tokens[:, 1:5]], 1)  # one less than the shift: the class token is number 0
    mixed = torch.stack([rolled[:, :155], rolled[:, 155:]], 2).flatten(1, 2)  # the halves in turns
    for part in range(4):
        group = torch.cat([tokens[:, :1], mixed[:, 77 * part : 77 * (part + 1)]], 1)  # two are over
        features.append(normed(state, "b2.1.", block(state, "b2.0.", group))[:, 0] / 4)
    model = reidzoo.create_model(f"local-dir:{tmp_path / 'transformer_120.pth'}").eval()
    torch.testing.assert_close(model(x, cameras), torch.cat(features, 1), atol=2e-4, rtol=1e-3)
    wants(model, (384, 128), ((0.5,) * 3, (0.5,) * 3))
    assert torch.equal(model.head.necks[4].classifier.weight, state["classifier_4.weight"])


@torch.no_grad()
def test_pass_with_a_neck_for_each_token_and_margins(tmp_path: Path) -> None:
    """The class token in a mean with the mean of the part tokens, before the necks; classes are AM-softmax's."""
    parts = [f"part_token{i}" for i in (1, 2, 3)]
    net = random_vit(384, 128, ["cls_token", "cls_pos", *parts, "part1_pos", "part2_pos", "part3_pos"], 0)
    conv = nn.Conv2d(3, 384, 16, 16)
    state = prefixed("base.", net | prefixed("patch_embed.proj.", conv.state_dict()))
    for suffix in ("", "_1", "_2", "_3"):
        state |= prefixed(f"bottleneck{suffix}.", shaken(nn.BatchNorm1d(384), 5).state_dict())
    state["classifier.W"] = torch.randn(384, CLASSES)
    torch.save(state, tmp_path / "transformer_120.pth")
    x = torch.randn(2, 3, 256, 128)
    special = [net["cls_token"] + net["cls_pos"]]
    special += [net[name] + net[f"part{i}_pos"] for i, name in enumerate(parts, 1)]
    patches = conv(x).flatten(2).transpose(1, 2) + net["pos_embed"]
    tokens = torch.cat([*(t.expand(2, -1, -1) for t in special), patches], 1)
    for i in range(12):
        tokens = block(net, f"blocks.{i}.", tokens)
    tokens = normed(net, "norm.", tokens)
    whole, local = tokens[:, 0], (tokens[:, 1] + tokens[:, 2] + tokens[:, 3]) / 3
    model = reidzoo.create_model(f"local-dir:{tmp_path / 'transformer_120.pth'}").eval()
    torch.testing.assert_close(model(x), (whole + local) / 2, atol=2e-4, rtol=1e-3)
    assert torch.equal(model.head.classifier.weight, state["classifier.W"].T)


def test_another_image_size_is_told_by_the_positions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = reidzoo.create_model("vit_tiny", pos_size=(384, 128))
    state = prefixed("base.", model.state_dict())
    state |= {"bottleneck.weight": torch.ones(192), "bottleneck.bias": torch.zeros(192)}
    state |= {"bottleneck.running_mean": torch.zeros(192), "bottleneck.running_var": torch.ones(192)}
    torch.save(state | {"classifier.weight": torch.ones(CLASSES, 192)}, tmp_path / "transformer_120.pth")
    again = reidzoo.create_model(f"local-dir:{tmp_path / 'transformer_120.pth'}")
    assert tuple(again.pretrained_cfg["input_size"]) == (3, 384, 128)
    assert torch.equal(again.backbone.pos_embed, model.pos_embed)
    assert again.backbone.reidzoo_name == "vit_tiny"


def test_other_vits_by_their_shapes() -> None:
    """TransReID's plain ViT-B, and PASS with a reduced feature; nothing is allocated here."""
    with torch.device("meta"):
        vit = reidzoo.create_model("timm/vit_base_patch16_224", stride=12)
        passed = reidzoo.create_model("pass_vit_small")
        neck = {f"bottleneck.{key}": t for key, t in nn.BatchNorm1d(768).state_dict().items()}
        plain = prefixed("base.", vit.state_dict()) | neck | {"classifier.weight": torch.ones(CLASSES, 768)}
        narrow = prefixed("base.", to_official(passed.state_dict(), passed)) | {"bottleneck.weight": torch.ones(24)}
        narrow |= {"fcneck.weight": torch.ones(24, 384), "classifier.weight": torch.ones(CLASSES, 24)}
    state, header = as_ours(plain, Path("x")) or ({}, {})
    assert header["model"] == "timm/vit_base_patch16_224"
    assert (header["timm_kwargs"], header["head"], header["num_classes"]) == ('{"stride": 12}', "bnneck", "5")
    assert {k for k in state if k.startswith("backbone.")} == set(prefixed("backbone.", vit.state_dict()))
    state, header = as_ours(narrow, Path("x")) or ({}, {})
    assert (header["head"], header["timm_kwargs"]) == ("bnneck", '{"feat_fusion": "mean"}')
    assert json.loads(header["head_options"]) == {"neck_feature": "before", "width": 24}
    backbone = {k.removeprefix("backbone."): t for k, t in state.items() if k.startswith("backbone.")}
    assert identify(Weights(state, header), backbone, Path("x"), finetuned=True).name == "pass_vit_small"


@pytest.mark.parametrize("fusion", ["cat", "mean"])
@pytest.mark.parametrize("head", ["multi_neck", "bnneck"])
def test_pass(fusion: str, head: str) -> None:
    """How the tokens are fused is told by the classes' width, the image size by the positions, of patches alone."""
    with torch.device("meta"):
        model = reidzoo.create_model(
            "pass_vit_small", head=head, num_classes=CLASSES, feat_fusion=fusion, pos_size=(384, 128)
        )
    state = prefixed("base.", model.backbone.state_dict()) | model.head.state_dict()
    if head == "multi_neck":
        names = {key: re.sub(r"^bottleneck\.(\d)", lambda m: f"bottleneck_{m[1]}", key) for key in state}
        state = {names[key].replace("bottleneck_0", "bottleneck"): t for key, t in state.items()}
        assert {"bottleneck.weight", "bottleneck_3.running_var", "classifier.weight"} <= state.keys()
    ours, header = as_ours(state, Path("x")) or ({}, {})
    assert {key: t.shape for key, t in ours.items()} == {key: t.shape for key, t in model.state_dict().items()}
    said = {"pos_size": [384, 128]} | ({"feat_fusion": "mean"} if fusion == "mean" else {})
    assert json.loads(header["timm_kwargs"]) == said
    assert (header["head"], header["num_classes"], header["img_size"]) == (head, "5", "384x128")
    assert json.loads(header["head_options"]) == {"neck_feature": "before"} | ({"width": 0} if head == "bnneck" else {})


@pytest.fixture(scope="module")
def trunk() -> nn.Module:
    return plain_resnet("resnet50", stride=1)


class ClassBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        reduce = [nn.Linear(2048, width)] if width else []
        self.add_block = nn.Sequential(*reduce, nn.BatchNorm1d(width or 2048), nn.Dropout())
        self.classifier = nn.Sequential(nn.Linear(width or 2048, CLASSES))


class IBN(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.IN, self.BN = nn.InstanceNorm2d(channels // 2, affine=True), nn.BatchNorm2d(channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return torch.cat([self.IN(first), self.BN(second)], 1)


@pytest.mark.parametrize("average", [False, True])
def test_layumi(average: bool, trunk: nn.Module, tmp_path: Path) -> None:
    """A ResNet-50 with last stride 1, and the average of one with IBN, stride 2 and no narrow layer."""
    stride = 2 if average else 1
    net = copy.deepcopy(trunk)
    for conv in (net.layer4[0].conv2, net.layer4[0].downsample[0]):
        conv.stride = (stride, stride)
    if average:
        for layer in (net.layer1, net.layer2, net.layer3):
            for block in layer:
                block.bn1 = shaken(IBN(block.bn1.num_features), 2)
    block = shaken(ClassBlock(0 if average else 512), 3)
    state = prefixed("model.", net.state_dict()) | prefixed("classifier.", block.state_dict())
    if average:
        state = {"n_averaged": torch.tensor(3)} | prefixed("module.", state)
    torch.save(state, tmp_path / "net_last.pth")
    (tmp_path / "opts.yaml").write_text(f"batchsize: 8\nname: x\nstride: {stride}\nstride_x: 9\n")
    with torch.no_grad():
        model = same_output(tmp_path / "net_last.pth", block.add_block(last_map(net, images()).mean((2, 3))))
    wants(model, (256, 128), IMAGENET)
    assert model.head.num_classes == CLASSES


def test_layumi_without_its_options(trunk: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Stride 2 is its default; that this is a guess is said once, however often the file is read."""
    block = shaken(ClassBlock(512), 3)
    torch.save(prefixed("model.", trunk.state_dict()) | prefixed("classifier.", block.state_dict()), tmp_path / "a.pth")
    model = reidzoo.create_model(f"local-dir:{tmp_path / 'a.pth'}")
    assert model.head.options["last_stride"] == 2
    assert [r.getMessage() for r in caplog.records if "opts.yaml" in r.getMessage()] == [
        f"there is no {tmp_path / 'opts.yaml'} beside a.pth: taking stride 2 for granted"
    ]


def test_layumi_pcb(trunk: nn.Module, tmp_path: Path) -> None:
    state = prefixed("model.", trunk.state_dict())
    for i in range(6):
        state |= prefixed(f"classifier{i}.", ClassBlock(256).state_dict())
    torch.save(state, tmp_path / "net_last.pth")
    with torch.no_grad():
        pooled = F.adaptive_avg_pool2d(last_map(trunk, images()), (6, 1)).squeeze(-1)  # (B, 2048, 6)
        parts = [pooled[..., i] / (pooled[..., i].norm(dim=1, keepdim=True) * 6**0.5) for i in range(6)]
    model = same_output(tmp_path / "net_last.pth", torch.stack(parts, 2).flatten(1))
    wants(model, (384, 192), IMAGENET)


@pytest.mark.parametrize(("gem", "extra", "width"), [(False, False, 0), (True, True, 0), (False, True, 24)])
def test_fastreid_baseline(gem: bool, extra: bool, width: int, tmp_path: Path) -> None:
    """Average or GeM, a batch norm in front of it or none, a 1x1 convolution behind it or none; the batch norm."""
    net = plain_resnet("resnet18", stride=1)
    state = prefixed("backbone.", {k: t for k, t in net.state_dict().items() if not k.startswith("fc.")})
    neck = nn.Sequential(*([nn.Conv2d(512, width, 1, bias=False)] if width else []), nn.BatchNorm2d(width or 512))
    extra_bn = shaken(nn.BatchNorm2d(512), 2) if extra else nn.Identity()
    state |= prefixed("heads.bottleneck.", shaken(neck, 1).state_dict())
    state |= prefixed("heads_extra_bn.", extra_bn.state_dict())
    state["heads.classifier.weight" if gem else "heads.weight"] = torch.randn(CLASSES, width or 512)
    if gem:  # the older layout, with the statistics of images in 0..255
        state["heads.pool_layer.p"] = torch.tensor([2.5])
        numbers = zip(("mean", "std"), IMAGENET, strict=True)
        state |= {f"pixel_{name}": 255 * torch.tensor(of).view(1, 3, 1, 1) for name, of in numbers}
    torch.save({"model": state, "iteration": 1}, tmp_path / "model_final.pth")
    with torch.no_grad():
        x = extra_bn(last_map(net, images()))
        pooled = x.clamp(min=1e-6).pow(2.5).mean((2, 3), keepdim=True).pow(1 / 2.5) if gem else x.mean((2, 3), True)
        model = same_output(tmp_path / "model_final.pth", neck(pooled).flatten(1))
    assert model.pretrained_cfg["std"] == pytest.approx(IMAGENET[1])
    assert model.embed_dim == (width or 512)


def test_fastreid_mgn(tmp_path: Path) -> None:
    """MGN as CION's fork builds it: a list of layers, branches with weights of their own, eight heads."""
    nets = [plain_resnet("resnet18", stride=1, seed=s) for s in range(3)]
    first = nets[0]
    layers = [first.conv1, first.bn1, first.relu, first.maxpool, first.layer1, first.layer2, first.layer3[0]]
    net = nn.Module()
    net.backbone = nn.Sequential(*layers)
    for i, each in enumerate(nets, 1):
        setattr(net, f"b{i}", nn.Sequential(nn.Sequential(*each.layer3[1:]), each.layer4))
        setattr(net, f"heads_extra_bn_b{i}", shaken(nn.BatchNorm2d(512), 10 + i))
    names = ["b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33"]
    for i, name in enumerate(names):
        head = nn.Module()
        head.pool_layer = nn.Module()
        head.pool_layer.p = nn.Parameter(torch.tensor([2.0 + 0.3 * i]))
        head.bottleneck = shaken(nn.Sequential(nn.Conv2d(512, 256, 1, bias=False), nn.BatchNorm2d(256)), 20 + i)
        head.classifier = nn.Linear(256, CLASSES, bias=False)
        setattr(net, f"{name}_head", head)
    state = net.state_dict() | {"pixel_mean": torch.ones(1, 3, 1, 1), "pixel_std": torch.ones(1, 3, 1, 1)}
    torch.save({"model": state, "iteration": 12120}, tmp_path / "model_final.pth")

    def part(name: str, x: Tensor) -> Tensor:
        head = getattr(net, f"{name}_head")
        p = head.pool_layer.p
        pooled = x.clamp(min=1e-6).pow(p).mean((2, 3), keepdim=True).pow(1 / p)
        return head.bottleneck(pooled).flatten(1)

    with torch.no_grad():
        shared = net.backbone(images())
        maps = [getattr(net, f"heads_extra_bn_b{i}")(getattr(net, f"b{i}")(shared)) for i in (1, 2, 3)]
        rows = maps[0].shape[2]
        cut = {"b1": maps[0], "b2": maps[1], "b3": maps[2]}
        for n in (2, 3):
            for i in range(n):
                cut[f"b{n}{i + 1}"] = maps[n - 1][:, :, i * rows // n : (i + 1) * rows // n]
        expected = torch.cat([part(name, cut[name]) for name in names], 1)
    assert rows % 6 == 0
    model = same_output(tmp_path / "model_final.pth", expected)
    wants(model, (384, 128), IMAGENET)
    assert read_metadata(tmp_path / "model_final.pth")["written_by"] == "fast-reid"
    newer = {k.replace("_head.classifier.", "_head."): t for k, t in state.items() if not k.startswith("pixel_")}
    (ours, header), (of_newer, its_header) = as_ours(state, Path("x")), as_ours(newer, Path("x"))
    assert (ours.keys(), header) == (of_newer.keys(), its_header)
