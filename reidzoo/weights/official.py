"""Checkpoints: the official ``.pth`` layout, and our own safetensors with a header that says what they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from reidzoo._files import atomic
from reidzoo._logging import get_logger
from reidzoo.errors import CheckpointError, UnknownModelError
from reidzoo.weights._files import find_file, is_safetensors, read_pickle, read_safetensors

_logger = get_logger(__name__)

# Where training code puts the state dict that counts. The teacher wins over the student beside it.
_CONTAINERS = ("teacher", "model", "state_dict", "model_state_dict")
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+|_orig_mod\.")
_BACKBONES = ("backbone.", "encoder_q.", "base.")
# Start-anchored: `blocks.0.mlp.` and GhostNet's `conv_head` are backbone tensors.
_HEADS = re.compile(
    r"^(?:head|head_dist|fc|fc1|fc2|embed_fc|classifier|bottleneck|mlp|last_layer|prototypes|pre_logits|queue)[._]"
    r"|^queue$"
)
# Tell-tale tensors of the architectures, most specific first; for error messages only.
_SIGNATURES = (
    ("semantic_embed_w.", "SOLIDER Swin"),
    (".ghost1.", "GhostNet"),
    ("part_token1", "PASS ViT"),
    ("patch_embed.conv.1.IN.", "ViT with convolution stem"),
    ("post_network.", "VOLO"),
    (".relative_position_bias_table", "Swin"),
    ("layer1.0.bn1.IN.", "ResNet-IBN"),
    ("layer1.0.", "ResNet"),
    ("conv_exp.", "FastViT"),
    ("final_conv.", "FastViT"),
    (".token_mixer.", "RepViT"),
    (".xca.", "EdgeNeXt"),
    ("pwconv1.", "ConvNeXt"),
    (".conv_dw.", "ConvNeXt"),
    ("blocks.0.attn.qkv.", "ViT"),
)


@dataclass(frozen=True)
class Weights:
    """Tensors of a checkpoint file, unwrapped but with head and prefix, and what the file says about itself."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_weights(path: str | Path) -> Weights:
    """Read a checkpoint without running anything in it.

    Safetensors, or a ``.pth`` whose pickle holds what the official training writes: tensors, plain containers,
    ``argparse.Namespace`` and numpy scalars. Containers are unwrapped (teacher, model, state_dict) and the
    prefixes of DDP and ``torch.compile`` removed.

    Args:
        path: A file, or a folder with a ``model.safetensors``.

    Raises:
        WeightsNotFoundError: Nothing at `path`.
        CheckpointError: Truncated, not a checkpoint, without tensors, or a pickle with anything else in it.
    """
    path = find_file(path)
    if is_safetensors(path):
        tensors, metadata = read_safetensors(path)
    else:
        tensors, metadata = _unwrap(read_pickle(path))
    tensors = {_WRAPPERS.sub("", key): tensor for key, tensor in tensors.items()}
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensors: expected a state dict, bare or under {' / '.join(_CONTAINERS)}."
        )
    return Weights(tensors, metadata)


def backbone_tensors(tensors: Mapping[str, Tensor], own: Container[str] = ()) -> dict[str, Tensor]:
    """Keep the backbone's tensors, without their prefix; projection heads, necks, classifiers, queues are left out.

    Args:
        tensors: As of `read_weights`.
        own: Names that belong to the backbone whatever they look like (timm's ConvNeXt has a ``head.norm``).
    """
    prefix = next((p for p in _BACKBONES if any(key.startswith(p) for key in tensors)), "")
    state = {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)}
    return {key: t for key, t in state.items() if key in own or not _HEADS.match(key)}


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint file into `model`, strictly; nothing is changed if it does not fit.

    A backbone takes the backbone's tensors of any file that `read_weights` reads. A `ReIDModel` takes the same, and its
    head too where the file is one of ours with a head. A file of ours also sets input size and normalisation.

    Args:
        model: A model of `create_model`.
        path: The file, or a folder with a ``model.safetensors``.

    Raises:
        CheckpointError: Names the missing, unexpected and mis-shaped tensors.
    """
    from reidzoo.models.heads import ReIDModel

    path = find_file(path)
    weights = read_weights(path)
    backbone = model.backbone if isinstance(model, ReIDModel) else model
    state = _best_fit(backbone_tensors(weights.tensors, backbone.state_dict()), backbone)
    problems = _mismatches(state, backbone)
    head_state: dict[str, Tensor] = {}
    if isinstance(model, ReIDModel) and weights.metadata.get("head"):
        head_state = {k[len("head.") :]: t for k, t in weights.tensors.items() if k.startswith("head.")}
        if head_problems := _mismatches(head_state, model.head):
            problems += [f"its head is another one ({', '.join(head_problems)}); without head=... its backbone loads"]
    if problems:
        raise CheckpointError(
            f"{path} does not fit {getattr(model, 'reidzoo_name', type(model).__name__)!r}. "
            f"{_describe(weights)}. {'; '.join(problems)}."
        )
    # strict=False only for batch counters that old files lack: all else has been compared above.
    backbone.load_state_dict(state, strict=False)
    if head_state:
        model.head.load_state_dict(head_state)  # type: ignore[union-attr]
    _adopt_preprocessing(backbone, weights.metadata)
    _logger.info("loaded %d tensors from %s", len(state) + len(head_state), path)


def save_model(model: nn.Module, path: str | Path, **metadata: Any) -> Path:
    """Write `model` as safetensors with a header from which ``create_model("local-dir:...")`` rebuilds it.

    The file appears under its name only when it is complete.

    Args:
        model: A model of `create_model`; of another module, the file keeps the tensors but not how to build it.
        path: The file (``.safetensors``), or a folder, which gets a ``model.safetensors``.
        **metadata: Further header entries, stored as strings, e.g. ``method="cion"``.

    Returns:
        The path of the file.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        path = path / "model.safetensors"
    header = {**_header(model), **{key: str(value) for key, value in metadata.items()}}
    tensors = {key: t.detach().cpu().contiguous() for key, t in model.state_dict().items()}
    with atomic(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(tensors, temporary, metadata=header)
        temporary.chmod(mode)  # safetensors leaves its files readable by their owner only
    return path


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the header of a file of `save_model`; the tensors are not touched.

    Raises:
        WeightsNotFoundError: Nothing at `path`.
        CheckpointError: Not a file of ours.
    """
    path = find_file(path)
    metadata = read_safetensors(path, tensors=False)[1] if is_safetensors(path) else {}
    if "reidzoo_version" not in metadata:
        raise CheckpointError(
            f"{path} has no reidzoo header, so it does not say which model it holds. Name the model: "
            f"reidzoo.create_model('resnet50', weights={str(path)!r})"
        )
    return metadata


def _header(model: Any) -> dict[str, str]:
    from reidzoo import __version__
    from reidzoo.models.heads import ReIDModel

    head = model.head if isinstance(model, ReIDModel) else None
    backbone: Any = model.backbone if isinstance(model, ReIDModel) else model
    cfg = backbone.pretrained_cfg
    plain = (bool, int, float, str, list, tuple, type(None))
    return {
        "reidzoo_version": __version__,
        "model": getattr(backbone, "reidzoo_name", ""),
        "timm_kwargs": json.dumps(
            {k: v for k, v in getattr(backbone, "reidzoo_kwargs", {}).items() if isinstance(v, plain)}
        ),
        "head": head.name if head else "",
        "head_options": json.dumps(head.options if head else {}),
        "num_classes": str(head.num_classes if head else 0),
        "img_size": "x".join(map(str, cfg["input_size"][1:])),
        "mean": json.dumps(cfg["mean"]),
        "std": json.dumps(cfg["std"]),
    }


def _unwrap(content: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    metadata: dict[str, str] = {}
    if isinstance(content, dict) and isinstance(arch := getattr(content.get("args"), "arch", None), str):
        metadata["arch"] = arch
    while isinstance(content, dict):
        key = next((k for k in _CONTAINERS if isinstance(content.get(k), dict)), None)
        if key is None:
            return {str(k): v for k, v in content.items() if isinstance(v, Tensor)}, metadata
        content = content[key]
    return {}, metadata


def _best_fit(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """`state` under the names of `backbone`, be it in our layout or in the official one."""
    from reidzoo.models._keymap import from_official

    try:
        candidates = [state, from_official(state, backbone)]
    except UnknownModelError:  # a timm model outside the zoo has one layout
        return state
    return min(candidates, key=lambda c: len(set(c) ^ set(backbone.state_dict())))


def _adopt_preprocessing(backbone: Any, metadata: Mapping[str, str]) -> None:
    """Take over what a file of ours says about the images that its weights were trained on."""
    if "reidzoo_version" in metadata and hasattr(backbone, "pretrained_cfg"):
        backbone.pretrained_cfg.update(
            input_size=(3, *(int(n) for n in metadata["img_size"].split("x"))),
            mean=tuple(json.loads(metadata["mean"])),
            std=tuple(json.loads(metadata["std"])),
        )


def _mismatches(state: Mapping[str, Tensor], module: nn.Module) -> list[str]:
    expected = module.state_dict()
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(expected[k].shape)}"
        for k in expected
        if k in state and state[k].shape != expected[k].shape
    ]
    broken = [k for k, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    kinds = {
        "missing": missing,
        "unexpected": [k for k in state if k not in expected],
        "mis-shaped": shapes,
        "not finite": broken,
    }
    return [_listing(kind, names) for kind, names in kinds.items() if names]


def _listing(kind: str, names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{len(names)} {kind}: {', '.join(names[:limit])}{more}"


def _describe(weights: Weights) -> str:
    """What a file seems to be, for the message that it is not what was expected."""
    name = weights.metadata.get("model") or weights.metadata.get("arch")
    if name:
        return f"The file says that it holds {name!r}"
    for signature, family in _SIGNATURES:
        if any(signature in key for key in weights.tensors):
            return f"Its tensors look like those of a {family}"
    return "Its tensors are those of no known backbone"
