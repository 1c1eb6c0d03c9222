"""Our own files: safetensors with a header that says what they hold and how to build it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from reidzoo._files import atomic
from reidzoo.errors import CheckpointError
from reidzoo.weights._files import find_file, is_safetensors, read_pickle, read_safetensors
from reidzoo.weights._identify import identify
from reidzoo.weights.official import backbone_tensors, read_weights


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
    header = {**header_of(model), **{key: str(value) for key, value in metadata.items()}}
    write_safetensors({key: t.detach().cpu() for key, t in model.state_dict().items()}, path, header)
    return path


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, header: dict[str, str]) -> None:
    """Write tensors and a header; the file appears under its name only when it is complete.

    Raises:
        OSError: It cannot be written.
    """
    with atomic(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file({key: t.contiguous() for key, t in tensors.items()}, temporary, metadata=header)
        except SafetensorError as e:
            raise OSError(f"{path} cannot be written: {e}") from e
        temporary.chmod(mode)  # safetensors leaves its files readable by their owner only


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the header of a file of `save_model`, or of a run's checkpoint; the tensors are not touched.

    Fine-tuned networks of other code have no header. They are read whole, and told by their tensors.

    Raises:
        WeightsNotFoundError: Nothing at `path`.
        CheckpointError: Neither a file of ours nor a fine-tuned network.
    """
    path = find_file(path)
    metadata = read_safetensors(path, tensors=False)[1] if is_safetensors(path) else _of_checkpoint(path)
    if "img_size" not in metadata:
        metadata = _of_other(path)
    if not metadata.keys() >= {"model", "img_size"}:
        raise CheckpointError(
            f"{path} has no reidzoo header, so it does not say which model it holds. Name the model: "
            f"reidzoo.create_model('resnet50', weights={str(path)!r}) (command line: resnet50 --weights {path})"
        )
    return metadata


_BUILD = (
    *("model", "timm_kwargs", "head", "head_options", "num_classes"),
    *("img_size", "mean", "std", "interpolation", "published"),
)


def origin(metadata: Mapping[str, str]) -> dict[str, str]:
    """The part of a header that says where the weights come from, without how to build the network."""
    return {k: v for k, v in metadata.items() if k not in (*_BUILD, "reidzoo_version", "license")}


def _of_checkpoint(path: Path) -> dict[str, str]:
    content = read_pickle(path)
    found = content.get("reidzoo") if isinstance(content, dict) else None
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _of_other(path: Path) -> dict[str, str]:
    """What the tensors say, where they are those of a fine-tuned network."""
    weights = read_weights(path)
    if weights.metadata.get("model") == "":
        backbone = backbone_tensors(weights.tensors)
        weights.metadata["model"] = identify(weights, backbone, path, finetuned=True).name
    return weights.metadata


def header_of(model: Any) -> dict[str, str]:
    """What a file of ours says about the model in it: enough to build it again."""
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
        "interpolation": cfg.get("interpolation", "bilinear"),
        "license": getattr(backbone, "weights_license", ""),
        **({"published": json.dumps(backbone.published)} if getattr(backbone, "published", None) else {}),
    }
