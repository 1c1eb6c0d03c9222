"""What a checkpoint holds, told by its tensors: names and shapes, not file names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reidzoo.errors import CheckpointError
from reidzoo.models import ModelSpec, create_model, list_models, model_info, to_official

if TYPE_CHECKING:
    from reidzoo.weights.official import Weights

Layout = frozenset[tuple[str, tuple[int, ...]]]

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
# Constants that some files store and others leave out.
_OPTIONAL = ("num_batches_tracked", "relative_position_index")
# Tensors that follow the size of the images, and the vectors of cameras.
_SIZED = ("pos_embed", "sie_embed")


def describe(weights: Weights) -> str:
    """A sentence about what a file seems to hold, for the message that it is not what was expected."""
    name = weights.metadata.get("model") or weights.metadata.get("arch")
    if name:
        return f"The file says that it holds {name!r}"
    for signature, family in _SIGNATURES:
        if any(signature in key for key in weights.tensors):
            return f"Its tensors look like those of a {family}"
    return "Its tensors are those of no known backbone"


def identify(weights: Weights, state: Mapping[str, Tensor], path: Path, *, finetuned: bool = False) -> ModelSpec:
    """Find the released backbone whose official layout `state` has.

    Several releases share an architecture. Then the file's own words decide (its name, the architecture that it
    names, the container that it comes in), and if they do not, the caller has to.

    Args:
        weights: What `path` holds.
        state: Its backbone tensors, under official names.
        path: The file.
        finetuned: Its numbers are those of no release: any backbone of the architecture will do, ReIDZoo's first, with
            a ViT's positions for images of any size.

    Raises:
        CheckpointError: It is none of the known backbones, or may be several.
    """
    ignored = _SIZED if finetuned else ()
    found = _without(_layout_of(state), ignored)
    said = [path.stem, re.sub(r"_\d+$", "", path.stem), weights.metadata.get("arch", "")]
    for word in said:
        # Only a hint: a name is believed if the tensors agree, and the search through all of them is saved.
        if word in _aliases() and found == _without(_layout(_aliases()[word]), ignored):
            return model_info(_aliases()[word])
    # Networks are built only where their size is about right: that of all of them takes many seconds.
    size = sum(t.numel() for t in state.values() if t.is_floating_point()) / 1e6
    near = [name for name in list_models() if abs(model_info(name).params_m / size - 1) < 0.1]
    fits = [name for name in near if _without(_layout(name), ignored) == found]
    if not fits:
        closest = min(list_models(), key=lambda name: len(_layout(name) ^ found))
        raise CheckpointError(
            f"{path} holds no backbone that reidzoo knows. {describe(weights)}; of the known ones {closest!r} is the "
            f"closest, and differs in {_difference(_layout(closest), found)}. Expected a released file as it was "
            f"downloaded; for your own network type: reidzoo.create_model(NAME, weights={str(path)!r})"
        )
    specs = [model_info(name) for name in fits]
    if len(specs) > 1 and weights.metadata.get("container") == "teacher" and not weights.metadata.get("arch"):
        specs = [s for s in specs if s.release == "reidzoo"] or specs  # the one release that ships training checkpoints
    if len(specs) == 1 or finetuned:
        return min(specs, key=lambda s: s.release != "reidzoo")
    raise CheckpointError(
        f"{path} may be any of {', '.join(s.name for s in specs)}: they share one architecture, and the file does not "
        f"say which it is. Say it: reidzoo weights import {path} --name {specs[0].name}"
    )


def _layout_of(state: Mapping[str, Tensor]) -> Layout:
    return frozenset((k, tuple(t.shape)) for k, t in state.items() if not k.endswith(_OPTIONAL))


def _without(layout: Layout, endings: tuple[str, ...]) -> Layout:
    return frozenset((key, shape) for key, shape in layout if not key.endswith(endings)) if endings else layout


@cache
def _layout(name: str) -> Layout:
    """Official names and shapes of a backbone, from a model without memory."""
    with torch.device("meta"):
        model = create_model(name)
    return _layout_of(to_official(model.state_dict(), model))


@cache
def _aliases() -> dict[str, str]:
    """File stems and names that stand for one backbone."""
    specs = [model_info(name) for name in list_models()]
    return {s.name: s.name for s in specs} | {s.official_stem: s.name for s in specs if s.official_stem}


def _difference(expected: Layout, found: Layout) -> str:
    keys, others = {k for k, _ in expected}, {k for k, _ in found}
    parts = {
        "missing": keys - others,
        "unexpected": others - keys,
        "mis-shaped": {k for k, _ in found - expected} & keys,
    }
    return ", ".join(f"{len(names)} {kind} ({min(names)}, ...)" for kind, names in parts.items() if names)
