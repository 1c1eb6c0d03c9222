"""create_model: name -> spec -> family builder -> weights -> head, or feature maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from timm.models._features import FeatureGetterNet
from torch import nn

from reidzoo.errors import ConfigError, UnknownModelError, did_you_mean
from reidzoo.models import vit
from reidzoo.models._keymap import builder
from reidzoo.models._registry import model_info
from reidzoo.models._timm_door import RESIZE, timm_cfg
from reidzoo.models.attention import ATTENTION
from reidzoo.models.heads import ReIDModel, create_head

_DEFAULT_SIZE = (256, 128)
_MOST_STAGES = 5  # a network with more maps than that has blocks of one resolution, not stages


class FeatureMaps(FeatureGetterNet):  # type: ignore[misc]  # timm is untyped
    """timm's wrapper for ``features_only=True``: ``(B, 3, H, W)`` -> list of maps ``(B, C, h, w)``."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory, as on the backbone; timm's own wrapper of this kind cannot be told to."""
        self.model.set_grad_checkpointing(enable)


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    weights: str | Path | None = None,
    num_classes: int = 0,
    head: str | None = None,
    img_size: int | tuple[int, int] | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    cache_dir: str | Path | None = None,
    **timm_kwargs: Any,
) -> nn.Module:
    """Build a backbone, a backbone with a head, or one that gives feature maps.

    The backbone is a timm model whose call maps ``(B, 3, H, W)`` floats to ``(B, embed_dim)`` un-normalised features.
    It comes in training mode, as from timm, and carries ``reidzoo_name``, ``embed_dim`` and ``pretrained_cfg``.

    Args:
        name: A zoo name or alias (`list_models`), ``"timm/<any timm name>"``, ``"local-dir:<folder or file>"`` (of
            `reidzoo.weights.save_model`, or a network that TransReID, fast-reid or layumi's baseline fine-tuned: says
            itself what it holds) or ``"hf-hub:<owner>/<repo>"`` with such a file.
        pretrained: Load the released weights: those that `reidzoo.weights.import_official` put into the local store, or
            those of the configured hub repository, under a licence that was accepted. For ``timm/`` names, timm's.
        weights: Checkpoint for the backbone: an official ``.pth``, a file of ours, or a fine-tuned network of other
            code. One with the same head restores the head too.
        num_classes: Identities of the head.
        head: None for the backbone alone; for a `ReIDModel` ``"bnneck"``, ``"linear"``, ``"bottleneck"``, ``"pcb"``,
            ``"mgn"``, ``"jpm"`` or ``"multi_neck"``.
        img_size: (height, width), or one number for both, that the input has: 256x128 unless said otherwise. The zoo's
            backbones take other sizes too; transformers of timm may be bound to it.
        features_only: Return a `FeatureMaps`, which is timm's ``FeatureGetterNet``: its call gives a list of maps
            ``(B, C, h, w)``, those of the backbone's ``forward_intermediates``, and its ``feature_info`` says their
            channels and reductions. Layers behind the last map are cut off.
        out_indices: Which maps: indices into ``feature_info``, or n for the last n. None: all stages; of networks
            without stages, such as ViT, the last three blocks.
        cache_dir: Where hub downloads are kept.
        **timm_kwargs: Passed on to timm, e.g. ``drop_path_rate=0.1``; of ViTs also the options of
            `reidzoo.models.vit.set_options`: ``stride=12`` (overlapping patches), ``cameras=6`` (side information);
            of ResNets ``non_local=True`` and ``usam=True`` (`reidzoo.models.attention`).

    Raises:
        UnknownModelError: No such model; names the closest.
        LicenseNotAcceptedError: The terms of the pre-trained weights have not been accepted here.
        WeightsNotFoundError: The weights are not on this machine.
        CheckpointError: A file that does not fit, with the tensors that do not.
        ConfigError: Arguments that contradict each other.
        HubAccessError: The hub repository cannot be read.
    """
    if out_indices is not None and not features_only:
        raise ConfigError(f"out_indices={out_indices!r} chooses feature maps: add features_only=True.")
    if features_only and (head is not None or num_classes):
        raise ConfigError("features_only=True gives feature maps, and a head takes none: choose one.")
    if name.startswith(("local-dir:", "hf-hub:")):
        if weights is not None:
            raise ConfigError(f"{name!r} brings its own weights: leave out weights={str(weights)!r}.")
        if timm_kwargs:
            raise ConfigError(f"{name!r} says how it is built: leave out {', '.join(sorted(timm_kwargs))}.")
        model = _from_file(model_file(name, cache_dir), num_classes=num_classes, head=head, img_size=img_size)
    else:
        if pretrained and weights is not None:
            raise ConfigError("pretrained=True and weights=... are two sources of weights: choose one.")
        if pretrained and not name.startswith("timm/"):
            weights = _pretrained_file(name, cache_dir)
        backbone = _build_backbone(name, pretrained, _as_size(img_size), cache_dir, timm_kwargs)
        model = _with_head(backbone, head, num_classes)
        if weights is not None:
            _load(model, weights, img_size)
    return _feature_maps(model, out_indices) if features_only else model


def _build_backbone(
    name: str, pretrained: bool, size: tuple[int, int], cache_dir: str | Path | None, timm_kwargs: dict[str, Any]
) -> nn.Module:
    model: Any
    attention = [add for option, add in ATTENTION.items() if timm_kwargs.get(option)]
    timm_kwargs = {k: v for k, v in timm_kwargs.items() if k not in ATTENTION}
    if name.startswith("timm/"):
        options, rest = vit.split_options(timm_kwargs)
        model = _build_timm(name[len("timm/") :], pretrained, size, {"cache_dir": cache_dir, **rest})
        model.reidzoo_name = name
        if options:
            vit.set_options(model, **options)
        cfg: dict[str, Any] = model.pretrained_cfg | RESIZE
    else:
        spec = model_info(name)
        name = spec.name
        model = builder(spec.family).build(spec, img_size=size, **timm_kwargs)
        # All else that timm's configuration says is of its own weights, and must not be taken for ours.
        cfg = timm_cfg(spec) | {k: model.pretrained_cfg[k] for k in ("first_conv", "classifier")}
        model.num_features = model.head_hidden_size  # the width of model(x); timm's differs for GhostNet
    channels = timm_kwargs.get("in_chans", 3)
    model.pretrained_cfg = model.default_cfg = {**cfg, "input_size": (channels, *size)}
    model.reidzoo_name = name
    model.reidzoo_kwargs = timm_kwargs
    model.weights_license = ""  # random weights are under nobody's terms; loading sets it
    model.embed_dim = getattr(model, "head_hidden_size", None) or model.num_features
    for add in attention:
        add(model)
    built: nn.Module = model
    return built


def _build_timm(timm_name: str, pretrained: bool, size: tuple[int, int], kwargs: dict[str, Any]) -> nn.Module:
    """Build any timm model; one with a fixed input size is built for `size`, and dynamic where timm can do that."""
    if not timm.is_model(timm_name.partition(".")[0]):
        raise UnknownModelError(
            f"There is no timm model {timm_name!r}.{did_you_mean(timm_name, timm.list_models())} "
            f"timm {timm.__version__} lists its own with timm.list_models()."
        )
    cfg = timm.get_pretrained_cfg(timm_name)
    sized: dict[str, Any] = {"img_size": size, "dynamic_img_size": True} if cfg and cfg.fixed_input_size else {}
    while True:
        try:
            model: nn.Module = timm.create_model(timm_name, pretrained=pretrained, num_classes=0, **{**sized, **kwargs})
            return model
        except TypeError as e:
            # timm has no other way to ask which of these options an architecture takes.
            refused = next((option for option in sized if f"'{option}'" in str(e)), None)
            if refused is None:
                raise
            del sized[refused]


def _with_head(backbone: nn.Module, head: str | None, num_classes: int, **options: Any) -> nn.Module:
    if head is None:
        if num_classes:
            raise ConfigError(f"num_classes={num_classes} needs a head: add head='bnneck' (or 'linear').")
        return backbone
    width: Any = backbone.embed_dim
    return ReIDModel(backbone, create_head(head, width, num_classes, **options))


def _feature_maps(model: nn.Module, out_indices: int | Sequence[int] | None) -> nn.Module:
    """Wrap `model`, its weights loaded, as timm does for ``features_only=True``.

    timm wraps as it builds, which is before a family's changes to the finished network; some of its wrappers also
    take the network apart and run the parts in sequence, past overridden methods. `FeatureGetterNet` does neither.
    """
    backbone: Any = model.backbone if isinstance(model, ReIDModel) else model
    name, info = backbone.reidzoo_name, getattr(backbone, "feature_info", None)
    if not info or not hasattr(backbone, "forward_intermediates"):
        raise ConfigError(
            f"timm gives no feature maps of {name!r} through forward_intermediates. "
            f"Try its own wrapper: timm.create_model({name.removeprefix('timm/')!r}, features_only=True)"
        )
    if out_indices is None:
        out_indices = len(info) if len(info) <= _MOST_STAGES else 3
    indices = list(range(-out_indices, 0)) if isinstance(out_indices, int) else list(out_indices)
    if not indices or not all(-len(info) <= i < len(info) for i in indices):
        raise ConfigError(f"out_indices={out_indices!r}, but {name!r} has {len(info)} maps: 0 to {len(info) - 1}.")
    maps: Any = FeatureMaps(backbone, out_indices=indices)
    unused = ("num_classes", "classifier", "global_pool")
    maps.pretrained_cfg = maps.default_cfg = {k: v for k, v in backbone.pretrained_cfg.items() if k not in unused}
    maps.weights_license = backbone.weights_license
    wrapped: nn.Module = maps
    return wrapped


def _as_size(img_size: int | tuple[int, int] | None) -> tuple[int, int]:
    if img_size is None:
        return _DEFAULT_SIZE
    pair = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise ConfigError(f"img_size is (height, width) in pixels, e.g. (256, 128), not {img_size!r}.")
    return pair[0], pair[1]


def _from_file(path: Path, *, num_classes: int, head: str | None, img_size: int | tuple[int, int] | None) -> nn.Module:
    """Rebuild a model from a file of `reidzoo.weights.save_model` alone; a file without a head may get a new one."""
    from reidzoo.weights import read_metadata

    meta = read_metadata(path)
    if not meta["model"]:
        raise ConfigError(
            f"{path} holds a network that create_model did not build: build it yourself, then call "
            f"reidzoo.weights.load_weights(model, {str(path)!r})."
        )
    stored_head = meta.get("head") or None
    if stored_head and (head not in (None, stored_head) or num_classes not in (0, int(meta["num_classes"]))):
        raise ConfigError(
            f"{path} has a {stored_head!r} head for {meta['num_classes']} identities, which is not the one asked for. "
            f"For its backbone alone type: reidzoo.create_model({meta['model']!r}, weights={str(path)!r})"
        )
    height, width = (int(n) for n in meta["img_size"].split("x"))
    backbone = _build_backbone(
        meta["model"], False, _as_size(img_size) if img_size else (height, width), None, json.loads(meta["timm_kwargs"])
    )
    if stored_head:
        model = _with_head(backbone, stored_head, int(meta["num_classes"]), **json.loads(meta["head_options"]))
    else:
        model = _with_head(backbone, head, num_classes)
    _load(model, path, img_size)
    return model


def _load(model: Any, path: str | Path, img_size: int | tuple[int, int] | None) -> None:
    """Load the weights in `path`; the input size that was asked for counts more than the one in the file."""
    from reidzoo.weights import load_weights

    load_weights(model, path)
    if img_size is not None:
        cfg = model.pretrained_cfg
        cfg["input_size"] = (cfg["input_size"][0], *_as_size(img_size))


def model_file(name: str, cache_dir: str | Path | None) -> Path:
    """Where a ``local-dir:`` or ``hf-hub:`` model lies on this machine; the latter is downloaded."""
    source, _, target = name.partition(":")
    if source == "local-dir":
        return Path(target)
    from reidzoo.weights.hub import download_model

    return download_model(target, cache_dir)


def _pretrained_file(name: str, cache_dir: str | Path | None) -> Path:
    from reidzoo.weights._locate import pretrained_file

    return pretrained_file(model_info(name), cache_dir)
