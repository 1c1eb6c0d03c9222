"""Fine-tuned networks of other code: read as files of ours, with their head, input size and normalisation.

Which code wrote a file is told by the names of its tensors. What it does not say (the input size, the stride of a
ResNet) is what that code has by default; layumi's options lie beside the weights, in ``opts.yaml``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from reidzoo._logging import get_logger
from reidzoo.errors import CheckpointError
from reidzoo.models._keymap import substitute
from reidzoo.models._registry import IMAGENET_MEAN, IMAGENET_STD
from reidzoo.models.vit import SIZES, STRIDES

_logger = get_logger(__name__)

Tensors = Mapping[str, Tensor]
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
_SIZE = (256, 128)


@dataclass(frozen=True)
class Finetuned:
    """What a file holds, in our terms.

    Attributes:
        code: Who wrote it.
        rules: From its names to ours: regular expressions and what they become; what becomes "" is left out.
        head: Of `create_head`; "" where the backbone alone gives the embedding.
        options: Of the head.
        classes: Name of a tensor (C, ...) of its classifier.
        img_size: (height, width) of the images.
        statistics: Mean and standard deviation of the normalisation.
        model: For `create_model`; "" if the tensors have to tell.
        timm_kwargs: For `create_model`.
        interpolation: How its code resizes test images.
    """

    code: str
    rules: Sequence[tuple[str, str]]
    head: str
    options: dict[str, Any] = field(default_factory=dict)
    classes: str = "classifier.weight"
    img_size: tuple[int, int] = _SIZE
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = _IMAGENET
    model: str = ""
    timm_kwargs: dict[str, Any] = field(default_factory=dict)
    interpolation: str = "bicubic"

    def header(self, tensors: Tensors) -> dict[str, str]:
        """What `save_model` would write about it."""
        return {
            "written_by": self.code,
            "model": self.model,
            "timm_kwargs": json.dumps(self.timm_kwargs),
            "head": self.head,
            "head_options": json.dumps(self.options),
            "num_classes": str(len(_as_linear(self.classes, tensors[self.classes]))) if self.head else "0",
            "img_size": "x".join(map(str, self.img_size)),
            "mean": json.dumps(self.statistics[0]),
            "std": json.dumps(self.statistics[1]),
            "interpolation": self.interpolation,
        }


def as_ours(tensors: Tensors, path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Rename the tensors of a fine-tuned network of other code, and describe it; None if it is none.

    Args:
        tensors: Unwrapped, without the prefixes of DDP and ``torch.compile``.
        path: The file.

    Returns:
        Tensors as ``backbone.*`` (under the official names) and ``head.*``, and a header as of `save_model`.

    Raises:
        CheckpointError: It is one, with a part that reidzoo does not have.
    """
    for sign, describe in _LAYOUTS:
        if sign in tensors:
            found = describe(tensors, path)
            renamed = {substitute(key, found.rules): key for key in tensors}
            state = {new: _as_linear(old, tensors[old]) for new, old in renamed.items() if new}
            return state, found.header(tensors)
    return None


def _as_linear(key: str, tensor: Tensor) -> Tensor:
    """fast-reid's 1x1 convolutions and AM-softmax's columns as weights of linear layers; all else as it is."""
    if key == "classifier.W":
        return tensor.t()
    convolution = tensor.ndim == 4 and re.search(r"heads?\.bottleneck\.0\.weight$", key)
    return tensor.flatten(1) if convolution else tensor


def _transreid(tensors: Tensors, path: Path) -> Finetuned:
    """TransReID, TransReID-SSL, CION, PASS: the retrieval feature is the one before the neck."""
    classes = next((name for name in ("classifier.weight", "classifier.W") if name in tensors), "")
    reduce, jigsaw = tensors.get("fcneck.weight"), "b2.0.norm1.weight" in tensors
    several = "bottleneck_1.weight" in tensors
    parts = {"fcneck (a reduced feature)": reduce is not None, "several necks": several, "no classifier": not classes}
    if sum(parts.values()) > 1:
        raise CheckpointError(
            f"{path} was fine-tuned with TransReID's code and has {' and '.join(k for k, v in parts.items() if v)}, "
            "which reidzoo does not read together. Expected the state dict as that code saves it."
        )
    rules = [(r"^base\.fc\..*", ""), *(_JPM if jigsaw else ()), (r"^base\.", "backbone.")]
    img_size, timm_kwargs = _patches(tensors)
    size: dict[str, Any] = {"img_size": img_size, "statistics": _HALF, "interpolation": "bilinear", "classes": classes}
    size |= {"model": _plain_vit_base(tensors), "timm_kwargs": timm_kwargs}
    neck: dict[str, Any] = {"neck_feature": "before"}
    if not classes:
        return Finetuned("TransReID", [*rules, (r"^bottleneck.*", "")], "", **size)
    rules.append((r"^classifier\.W$", "classifier.weight"))
    if "base.cls_pos" in tensors:
        feature = _as_linear(classes, tensors[classes]) if reduce is None else reduce
        if feature.shape[1] == tensors["base.cls_token"].shape[-1]:
            timm_kwargs["feat_fusion"] = "mean"
        if several:
            return Finetuned("TransReID", [*rules, *_PASS], "multi_neck", neck, **size)
    if not jigsaw:
        rules += [(r"^fcneck\.", "head.reduce."), (r"^(?=bottleneck\.|classifier\.)", "head.")]
        neck["width"] = 0 if reduce is None else len(reduce)
        return Finetuned("TransReID", rules, "bnneck", neck, **size)
    necks = [
        (r"^(bottleneck|classifier)_(\d+)\.", r"head.necks.\2.\1."),
        (r"^(bottleneck|classifier)\.", r"head.necks.0.\1."),
    ]
    last = max(int(key.split(".")[2]) for key in tensors if key.startswith("base.blocks."))
    rules = [(rf"^base\.blocks\.{last}\..*", ""), (r"^b1\.0\.", f"backbone.blocks.{last}."), *rules, *necks]
    count = sum(key.startswith("bottleneck_") and key.endswith(".weight") for key in tensors)
    return Finetuned("TransReID", rules, "jpm", {"parts": count, **neck}, **size)


# With jigsaw patches the file has the last block and norm three times: as they were, unused; of the global branch (b1);
# and of the local ones (b2).
_JPM = [(r"^base\.norm\..*", ""), (r"^b1\.1\.", "backbone.norm."), (r"^(?=b2\.)", "head.")]


# A neck for the class token, and one for each part token.
_PASS = [
    (r"^bottleneck_(\d+)\.", r"head.bottleneck.\1."),
    (r"^bottleneck\.", "head.bottleneck.0."),
    (r"^(?=classifier\.)", "head."),
]


def _plain_vit_base(tensors: Tensors) -> str:
    """TransReID's own backbone, which is timm's; the other plain and convolution-stem ViTs are in the zoo."""
    projection, last = tensors.get("base.patch_embed.proj.weight"), "base.blocks.11.norm1.weight"
    plain = projection is not None and projection.shape == (768, 3, 16, 16) and last in tensors
    return "timm/vit_base_patch16_224" if plain and "base.cls_pos" not in tensors else ""


def _patches(tensors: Tensors) -> tuple[tuple[int, int], dict[str, Any]]:
    """Image size of a ViT and what else it was built with, by the number of its position embeddings."""
    kwargs: dict[str, Any] = {}
    if "base.sie_embed" in tensors:
        kwargs["cameras"] = len(tensors["base.sie_embed"])
    table = tensors.get("base.pos_embed")
    patches = 0 if table is None else table.shape[1] - ("base.cls_pos" not in tensors)
    for stride, size in product(STRIDES, SIZES):
        if patches == math.prod((side - 16) // stride + 1 for side in size):
            kwargs |= {"stride": stride} if stride != 16 else {}
            kwargs |= {"pos_size": size} if size != _SIZE else {}
            return size, kwargs
    return _SIZE, kwargs


def _layumi(tensors: Tensors, path: Path) -> Finetuned:
    """Person_reID_baseline_pytorch, one network: the embedding is the narrow feature."""
    block, first = r"^classifier\.", tensors["classifier.add_block.0.weight"]
    rules = [*_LAYUMI_TRUNK, (block + r"classifier\.0\.", "head.block.classifier.")]
    names = ("reduce", "norm") if first.ndim == 2 else ("norm",)
    rules += [(rf"{block}add_block\.{i}\.", f"head.block.{name}.") for i, name in enumerate(names)]
    stride = int(_option(path, "stride", "2"))
    options = {"width": len(first) if first.ndim == 2 else 0, "last_stride": stride}
    model = _layumi_trunk(tensors, path)
    return Finetuned("layumi", rules, "bottleneck", options, "classifier.classifier.0.weight", model=model)


def _layumi_pcb(tensors: Tensors, path: Path) -> Finetuned:
    """Person_reID_baseline_pytorch, PCB: the embedding does without the heads."""
    parts = len({key.partition(".")[0] for key in tensors if key.startswith("classifier")})
    width = len(tensors["classifier0.add_block.0.weight"])
    rules = [
        *_LAYUMI_TRUNK,
        (r"^classifier(\d+)\.add_block\.0\.", r"head.blocks.\1.reduce."),
        (r"^classifier(\d+)\.add_block\.1\.", r"head.blocks.\1.norm."),
        (r"^classifier(\d+)\.classifier\.0\.", r"head.blocks.\1.classifier."),
    ]
    model, classes = _layumi_trunk(tensors, path), "classifier0.classifier.0.weight"
    return Finetuned("layumi", rules, "pcb", {"parts": parts, "width": width}, classes, (384, 192), model=model)


_LAYUMI_TRUNK = [(r"^n_averaged$|^model\.fc\..*", ""), (r"^model\.", "backbone.")]


def _layumi_trunk(tensors: Tensors, path: Path) -> str:
    """The backbone: torchvision's ResNet-50, or the one with IBN."""
    blocks = {key.split(".")[2] for key in tensors if key.startswith("model.layer3.")}
    ibn = "model.layer1.0.bn1.IN.weight" in tensors
    if len(blocks) != 6:
        raise CheckpointError(
            f"{path} was written by Person_reID_baseline_pytorch, and its backbone is another one. Of that code "
            "reidzoo reads ResNet-50 and ResNet-50-IBN."
        )
    return "resnet50_ibn" if ibn else "timm/resnet50"


def _option(path: Path, name: str, default: str) -> str:
    """A line ``name: value`` of the ``opts.yaml`` beside the weights."""
    file = path.with_name("opts.yaml")
    if not file.is_file():
        _say(f"there is no {file} beside {path.name}: taking {name} {default} for granted")
        return default
    found = re.search(rf"^{name}:\s*(\S+)", file.read_text(encoding="utf-8"), re.M)
    return found[1] if found else default


@cache
def _say(message: str) -> None:
    """Warn once: a file is read to see what it holds, and again for its tensors."""
    _logger.warning("%s", message)


def _fastreid(tensors: Tensors, path: Path) -> Finetuned:
    """fast-reid's Baseline (bag of tricks): the embedding is the one after the neck."""
    if attention := min((key for key in tensors if key.startswith("backbone.NL_")), default=""):
        raise CheckpointError(
            f"{path} was written by fast-reid, with {attention}: non-local blocks, which reidzoo does not read. "
            "Expected ResNet, pooling and a batch norm."
        )
    classes = "heads.classifier.weight" if "heads.classifier.weight" in tensors else "heads.weight"
    rules = [
        (r"^pixel_(mean|std)$", ""),
        (r"^heads_extra_bn\.", "head.map_norm."),
        (r"^heads\.pool_layer\.", "head.pool."),
        (rf"^{re.escape(classes)}$", "head.classifier.weight"),
    ]
    first = tensors["heads.bottleneck.0.weight"]
    width = len(first) if first.ndim == 4 else 0
    names = ("reduce", "bottleneck") if width else ("bottleneck",)
    rules += [(rf"^heads\.bottleneck\.{i}\.", f"head.{name}.") for i, name in enumerate(names)]
    statistics = _IMAGENET
    if "pixel_mean" in tensors:  # of images in 0..255
        mean, std = (tuple((tensors[f"pixel_{name}"].flatten() / 255).tolist()) for name in ("mean", "std"))
        statistics = (mean, std)
    options = {"neck_feature": "after", "map_norm": "heads_extra_bn.weight" in tensors, "width": width}
    options["pool"] = "gem" if "heads.pool_layer.p" in tensors else "backbone"
    return Finetuned("fast-reid", rules, "bnneck", options, classes, statistics=statistics)


def _mgn(tensors: Tensors, path: Path) -> Finetuned:
    """fast-reid's MGN, as CION has it: a trunk in one list, three branches, eight heads."""
    first = len({key.split(".")[2] for key in tensors if key.startswith("b1.0.")})  # blocks of layer3 in a branch
    names = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3.0"}

    def branch(start: str, layer3: tuple[str, int], layer4: tuple[str, int]) -> list[tuple[str, str]]:
        """Rules for the rest of layer3 and for layer4 of a branch: where they go, and from which number on."""
        last = 1 + max(int(key.split(".")[2]) for key in tensors if key.startswith(f"{start}.1."))
        rules = [(rf"^{start}\.0\.{i}\.", f"{layer3[0]}.{layer3[1] + i}.") for i in range(first)]
        return rules + [(rf"^{start}\.1\.{i}\.", f"{layer4[0]}.{layer4[1] + i}.") for i in range(last)]

    rules = [(r"^pixel_(mean|std)$", "")]
    rules += [(rf"^backbone\.{number}\.", f"backbone.{name}.") for number, name in names.items()]
    rules += branch("b1", ("backbone.layer3", 1), ("backbone.layer4", 0))
    rules += branch("b2", ("head.branches.0", 0), ("head.branches.0", first))
    rules += branch("b3", ("head.branches.1", 0), ("head.branches.1", first))
    rules += [(rf"^heads_extra_bn_b{n}\.", f"head.norms.{n - 1}.") for n in (1, 2, 3)]
    part = r"^(b\d+)_head\."
    rules += [(rf"{part}pool_layer\.", r"head.parts.\1.pool."), (rf"{part}bottleneck\.0\.", r"head.parts.\1.reduce.")]
    rules += [(rf"{part}bottleneck\.1\.", r"head.parts.\1.norm."), (rf"{part}(?=weight)", r"head.parts.\1.classifier.")]
    rules += [(rf"{part}classifier\.", r"head.parts.\1.classifier.")]
    classes = "b1_head.classifier.weight" if "b1_head.classifier.weight" in tensors else "b1_head.weight"
    return Finetuned("fast-reid", rules, "mgn", {}, classes, (384, 128))


# A tensor that only this code's files have, the more special code first.
_LAYOUTS: Sequence[tuple[str, Callable[[Tensors, Path], Finetuned]]] = (
    ("b1_head.bottleneck.0.weight", _mgn),
    ("classifier0.add_block.0.weight", _layumi_pcb),
    ("classifier.add_block.0.weight", _layumi),
    ("heads.bottleneck.0.weight", _fastreid),
    ("bottleneck.weight", _transreid),
)
