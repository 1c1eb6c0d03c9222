"""Fine-tuned networks of other code, written as that code writes them, against its networks in plain torch."""

from __future__ import annotations

import copy
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


def test_a_margin_head_of_other_shape_is_left_out(cion_file: tuple[Path, nn.Module], tmp_path: Path) -> None:
    file, net = cion_file
    state = torch.load(file)
    state["classifier.W"] = state.pop("module.classifier.weight").T  # AM-softmax: (D, C)
    torch.save(state, tmp_path / "resnet18_60.pth")
    with torch.no_grad():
        model = same_output(tmp_path / "resnet18_60.pth", last_map(net, images()).mean((2, 3)))
    wants(model, (256, 128), ((0.5,) * 3, (0.5,) * 3))


def test_what_cannot_be_read_is_said(cion_file: tuple[Path, nn.Module], tmp_path: Path) -> None:
    state = torch.load(cion_file[0])
    torch.save({**state, "module.fcneck.weight": torch.ones(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth has fcneck\.weight: a reduced feature \(REDUCE_FEAT_DIM\)"):
        reidzoo.create_model(f"local-dir:{tmp_path / 'a.pth'}")
    torch.save({"model.layer3.0.conv1.weight": torch.ones(1), "classifier.add_block.0.weight": torch.ones(2, 2)},
               tmp_path / "c.pth")  # fmt: skip
    with pytest.raises(CheckpointError, match="written by Person_reID_baseline_pytorch, and its backbone is another"):
        reidzoo.create_model(f"local-dir:{tmp_path / 'c.pth'}")


def test_transreid_with_jigsaw_cameras_and_overlap(tmp_path: Path) -> None:
    """The last block and norm are b1's, not the unused ones; SIE vectors and stride are told by the shapes."""
    torch.manual_seed(0)
    model = reidzoo.create_model("vit_tiny", head="jpm", num_classes=CLASSES, stride=12, cameras=6)
    shaken(model)
    state = prefixed("base.", model.backbone.state_dict())
    for part, inner in (("0", "blocks.11"), ("1", "norm")):
        for key in [k for k in state if k.startswith(f"base.{inner}.")]:
            state[f"b1.{part}{key.removeprefix(f'base.{inner}')}"] = state[key]
            state[key] = torch.zeros_like(state[key])
    state |= prefixed("b2.", model.head.b2.state_dict())
    for i, neck in enumerate(model.head.necks):
        suffix = f"_{i}" if i else ""
        state |= {k.replace(".", f"{suffix}.", 1): t for k, t in neck.state_dict().items()}
    state["base.fc.weight"] = torch.ones(3, 192)  # of ImageNet, unused
    assert {"bottleneck_4.weight", "classifier.weight", "b2.0.attn.qkv.weight", "b1.1.bias"} <= state.keys()
    torch.save(state, tmp_path / "vit_tiny_120.pth")
    again = reidzoo.create_model(f"local-dir:{tmp_path / 'vit_tiny_120.pth'}")
    expected, found = model.state_dict(), again.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    assert again.head.options["parts"] == 4
    assert tuple(again.backbone.patch_embed.grid_size) == (21, 10)
    assert len(again.backbone.sie_embed) == 6


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
    """TransReID's plain ViT-B, and PASS, whose embedding needs no head; nothing is allocated here."""
    with torch.device("meta"):
        vit = reidzoo.create_model("timm/vit_base_patch16_224", stride=12)
        passed = reidzoo.create_model("pass_vit_small")
        neck = {f"bottleneck.{key}": t for key, t in nn.BatchNorm1d(768).state_dict().items()}
        plain = prefixed("base.", vit.state_dict()) | neck | {"classifier.weight": torch.ones(CLASSES, 768)}
        part = {f"bottleneck{i}.weight": torch.ones(384) for i in ("", "_1", "_2", "_3")}
        cat = prefixed("base.", to_official(passed.state_dict(), passed)) | part
        cat["classifier.weight"] = torch.ones(CLASSES, 768)
    state, header = as_ours(plain, Path("x")) or ({}, {})
    assert header["model"] == "timm/vit_base_patch16_224"
    assert (header["timm_kwargs"], header["head"], header["num_classes"]) == ('{"stride": 12}', "bnneck", "5")
    assert {k for k in state if k.startswith("backbone.")} == set(prefixed("backbone.", vit.state_dict()))
    state, header = as_ours(cat, Path("x")) or ({}, {})
    assert (header["head"], header["num_classes"], header["mean"]) == ("", "0", "[0.5, 0.5, 0.5]")
    backbone = {key.removeprefix("backbone."): t for key, t in state.items()}
    assert identify(Weights(state, header), backbone, Path("x"), finetuned=True).name == "pass_vit_small"


@pytest.fixture(scope="module")
def trunk() -> nn.Module:
    return plain_resnet("resnet50", stride=1)


class ClassBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_block = nn.Sequential(nn.Linear(2048, width), nn.BatchNorm1d(width), nn.Dropout())
        self.classifier = nn.Sequential(nn.Linear(width, CLASSES))


@pytest.mark.parametrize("average", [False, True])
def test_layumi(average: bool, trunk: nn.Module, tmp_path: Path) -> None:
    stride = 2 if average else 1
    net = copy.deepcopy(trunk)
    for conv in (net.layer4[0].conv2, net.layer4[0].downsample[0]):
        conv.stride = (stride, stride)
    block = shaken(ClassBlock(512), 3)
    state = prefixed("model.", net.state_dict()) | prefixed("classifier.", block.state_dict())
    if average:
        state = {"n_averaged": torch.tensor(3)} | prefixed("module.", state)
    torch.save(state, tmp_path / "net_last.pth")
    (tmp_path / "opts.yaml").write_text(f"batchsize: 8\nname: x\nstride: {stride}\nstride_x: 9\n")
    with torch.no_grad():
        model = same_output(tmp_path / "net_last.pth", block.add_block(last_map(net, images()).mean((2, 3))))
    wants(model, (256, 128), IMAGENET)
    assert model.head.num_classes == CLASSES


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


@pytest.mark.parametrize("gem", [False, True])
def test_fastreid_baseline(gem: bool, tmp_path: Path) -> None:
    net = plain_resnet("resnet18", stride=1)
    state = prefixed("backbone.", {k: t for k, t in net.state_dict().items() if not k.startswith("fc.")})
    neck = shaken(nn.BatchNorm1d(512), 1)
    state |= prefixed("heads.bottleneck.0.", neck.state_dict()) | {"heads.weight": torch.randn(CLASSES, 512)}
    state |= {
        f"pixel_{n}": 255 * torch.tensor(v).view(1, 3, 1, 1) for n, v in zip(("mean", "std"), IMAGENET, strict=True)
    }
    if gem:
        state["heads.pool_layer.p"] = torch.tensor([2.5])
    torch.save({"model": state, "iteration": 1}, tmp_path / "model_final.pth")
    with torch.no_grad():
        x = last_map(net, images())
        pooled = x.clamp(min=1e-6).pow(2.5).mean((2, 3)).pow(1 / 2.5) if gem else x.mean((2, 3))
        model = same_output(tmp_path / "model_final.pth", neck(pooled))
    assert model.pretrained_cfg["std"] == pytest.approx(IMAGENET[1])
    torch.save({"model": state | {"heads_extra_bn.weight": torch.ones(1)}}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"written by fast-reid, with heads_extra_bn\.weight: an extra norm"):
        reidzoo.create_model("resnet18", weights=tmp_path / "b.pth")


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
