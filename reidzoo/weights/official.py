"""Other people's checkpoint files: what is in them, and how it gets into a model and back into their layout."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reidzoo._files import atomic
from reidzoo._logging import get_logger
from reidzoo.errors import CheckpointError, UnknownModelError
from reidzoo.models import list_models, model_info
from reidzoo.models.vit import ReIDVisionTransformer, fit_positions
from reidzoo.weights._files import find_file, is_safetensors, read_pickle, read_safetensors
from reidzoo.weights._finetuned import as_ours
from reidzoo.weights._identify import describe

_logger = get_logger(__name__)

# Where training code puts the state dict that counts; a run's checkpoint of ours has all under "method". The teacher
# wins over the student beside it.
_CONTAINERS = ("teacher", "model", "state_dict", "model_state_dict", "method", "supervised", "average", "network")
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+|_orig_mod\.")
_BACKBONES = ("backbone.", "encoder_q.", "base.")
# Start-anchored: `blocks.0.mlp.` and GhostNet's `conv_head` are backbone tensors.
_HEADS = re.compile(
    r"^(?:head|head_dist|fc|fc1|fc2|embed_fc|classifier|bottleneck|mlp|last_layer|prototypes|pre_logits|queue)[._]"
    r"|^(?:queue|prototypes)$"
)


@dataclass(frozen=True)
class Weights:
    """Tensors of a checkpoint file, unwrapped but with head and prefix, and what the file says about itself.

    Of our own files that is the header; of others it may have "arch" and "container" (where the tensors were found).
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_weights(path: str | Path) -> Weights:
    """Read a checkpoint without running anything in it.

    Safetensors, or a ``.pth`` whose pickle holds what the official training writes: tensors, plain containers,
    ``argparse.Namespace`` and numpy scalars. Containers are unwrapped (teacher, model, state_dict) and the
    prefixes of DDP and ``torch.compile`` removed. Fine-tuned networks of other code come as files of ours: under our
    names, and with a header that says what they are (`reidzoo.weights._finetuned`).

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
    if "reidzoo_version" not in metadata and (ours := as_ours(tensors, path)) is not None:
        tensors, metadata = ours[0], {**metadata, **ours[1]}
    if not tensors and metadata.get("container") == "student":
        raise CheckpointError(
            f"{path} holds a student without its teacher. The released features are the teacher's: expected a "
            f"'teacher' beside it, as in the file that was downloaded. To use the student all the same, save its state "
            f"dict alone."
        )
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
    head too where the file has one: a file of ours, or a fine-tuned network of other code. These also set input size
    and normalisation.

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
    state = fit_backbone(backbone, weights, path, resample=True)
    head_state: dict[str, Tensor] = {}
    if isinstance(model, ReIDModel) and weights.metadata.get("head"):
        head_state = {k[len("head.") :]: t for k, t in weights.tensors.items() if k.startswith("head.")}
        if problems := _mismatches(head_state, model.head):
            raise CheckpointError(
                f"{path} does not fit: its head is another one ({', '.join(problems)}). "
                f"Without head=... its backbone loads."
            )
    if reduced := sorted({str(t.dtype) for t in state.values() if t.is_floating_point()} - {"torch.float32"}):
        _logger.warning(
            "%s holds %s tensors: features differ from those of the float32 original", path, ", ".join(reduced)
        )
    # strict=False only for batch counters that old files lack: all else has been compared above.
    backbone.load_state_dict(state, strict=False)
    if head_state:
        model.head.load_state_dict(head_state)  # type: ignore[union-attr]
    elif isinstance(model, ReIDModel):
        model.head.attach(backbone)  # heads that start from layers of the backbone start from these
    _adopt(backbone, weights.metadata)
    _logger.info("loaded %d tensors from %s", len(state) + len(head_state), path)


def fit_backbone(backbone: nn.Module, weights: Weights, path: Path, *, resample: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the names of `backbone`, compared with it one by one. Copies nothing.

    Args:
        backbone: The network; it may be on the meta device.
        weights: As of `read_weights`.
        path: Where they are from, for the error.
        resample: Fit a ViT's position embeddings that are of another size or stride, as `fit_positions` does.

    Raises:
        CheckpointError: Says what the file is, and names the missing, unexpected and mis-shaped tensors.
    """
    state = _best_fit(backbone_tensors(weights.tensors, backbone.state_dict()), backbone)
    if resample and isinstance(backbone, ReIDVisionTransformer):
        state = fit_positions(state, backbone)
    if problems := _mismatches(state, backbone):
        raise CheckpointError(
            f"{path} does not fit {getattr(backbone, 'reidzoo_name', type(backbone).__name__)!r}. "
            f"{describe(weights)}. {'; '.join(problems)}."
        )
    return state


def export_official(model: nn.Module, path: str | Path, **metadata: Any) -> Path:
    """Write the backbone of `model` as the release of its kind does, for code that loads the released files.

    ReIDZoo's layout is ``{"teacher": {"module.backbone.<name>": tensor}}``, without ``module.`` for networks without
    batch norm; its readers strip these prefixes by their length. SOLIDER's is ``{"backbone.<name>": tensor}``, that of
    the others a flat state dict. A head is left out.

    Args:
        model: A backbone of the zoo (`list_models`), or a `ReIDModel` with one.
        path: The file to write (``.pth``); it appears under its name only when it is complete.
        **metadata: What else to say beside the tensors, where the layout has a place for it (ReIDZoo's): stored as
            strings, e.g. ``method="cion"``.

    Raises:
        UnknownModelError: The backbone is not of the zoo.
    """
    from reidzoo import __version__
    from reidzoo.models._keymap import to_official
    from reidzoo.models.heads import ReIDModel

    backbone: Any = model.backbone if isinstance(model, ReIDModel) else model
    spec = model_info(backbone.reidzoo_name)
    state = {k: t.detach().cpu() for k, t in to_official(backbone.state_dict(), backbone).items()}
    prefix = {"reidzoo": "module.backbone." if "batchnorm" in spec.tags else "backbone.", "solider": "backbone."}
    state = {prefix.get(spec.release, "") + key: t for key, t in state.items()}
    ours = {"reidzoo_version": __version__, "model": spec.name, "license": backbone.weights_license}
    ours |= {key: str(value) for key, value in metadata.items()}
    content = {"teacher": state, "reidzoo": ours} if spec.release == "reidzoo" else state
    path = Path(path)
    with atomic(path) as temporary:
        torch.save(content, temporary)
    return path


def _unwrap(content: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    metadata: dict[str, str] = {}
    if isinstance(content, dict):
        if isinstance(arch := getattr(content.get("args"), "arch", None), str):
            metadata["arch"] = arch
        if isinstance(ours := content.get("reidzoo"), dict):  # of `export_official`, or a run's checkpoint
            metadata |= {str(k): str(v) for k, v in ours.items()}
    while isinstance(content, dict):
        key = next((k for k in _CONTAINERS if isinstance(content.get(k), dict)), None)
        if key is None:
            if isinstance(content.get("student"), dict):
                return {}, {**metadata, "container": "student"}
            return {str(k): v for k, v in content.items() if isinstance(v, Tensor)}, metadata
        metadata["container"], content = key, content[key]
    return {}, metadata


def _best_fit(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """`state` under the names of `backbone`, be it in our layout or in the official one."""
    from reidzoo.models._keymap import from_official

    try:
        candidates = [from_official(state, backbone), state]  # it also reshapes: on a tie of names it wins
    except UnknownModelError:  # a timm model outside the zoo has one layout
        return state
    return min(candidates, key=lambda c: len(set(c) ^ set(backbone.state_dict())))


def _adopt(backbone: Any, metadata: Mapping[str, str]) -> None:
    """Take over what a file says about its terms, and one of ours about the images that it was trained on."""
    if "reidzoo_version" in metadata:
        backbone.weights_license = metadata.get("license", "")
        backbone.published = json.loads(metadata.get("published", "{}"))
    else:  # somebody else's file: at best the released one
        name = str(getattr(backbone, "reidzoo_name", ""))
        backbone.weights_license = model_info(name).license if name in list_models() else ""
    if "img_size" in metadata and hasattr(backbone, "pretrained_cfg"):
        backbone.pretrained_cfg.update(
            input_size=(backbone.pretrained_cfg["input_size"][0], *(int(n) for n in metadata["img_size"].split("x"))),
            mean=tuple(json.loads(metadata["mean"])),
            std=tuple(json.loads(metadata["std"])),
            interpolation=metadata.get("interpolation", "bilinear"),
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
