"""create_model: name -> spec -> family builder -> weights -> head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
from torch import nn

from reidzoo.errors import ConfigError, HubAccessError, UnknownModelError, WeightsNotFoundError, did_you_mean
from reidzoo.models._keymap import builder
from reidzoo.models._registry import model_info
from reidzoo.models.heads import ReIDModel, create_head

_DEFAULT_SIZE = (256, 128)


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    weights: str | Path | None = None,
    num_classes: int = 0,
    head: str | None = None,
    img_size: int | tuple[int, int] | None = None,
    cache_dir: str | Path | None = None,
    **timm_kwargs: Any,
) -> nn.Module:
    """Build a backbone, or a backbone with a head.

    The backbone is a timm model whose call maps ``(B, 3, H, W)`` floats to ``(B, embed_dim)`` un-normalised features.
    It comes in training mode, as from timm, and carries ``reidzoo_name``, ``embed_dim`` and ``pretrained_cfg``.

    Args:
        name: A zoo name or alias (`list_models`), ``"timm/<any timm name>"``, ``"local-dir:<folder or file>"`` (of
            `reidzoo.weights.save_model`: says itself what it holds) or ``"hf-hub:<owner>/<repo>"`` with such a file.
        pretrained: For ``timm/`` names, load timm's weights. The zoo's own weights are licensed and not shipped.
        weights: Checkpoint for the backbone: an official ``.pth``, or a file of ours. A file of ours with the same head
            restores the head too.
        num_classes: Identities of the head.
        head: None for the backbone alone, ``"bnneck"`` or ``"linear"`` for a `ReIDModel`.
        img_size: (height, width), or one number for both, that the input has: 256x128 unless said otherwise. The zoo's
            backbones take other sizes too; transformers of timm may be bound to it.
        cache_dir: Where hub downloads are kept.
        **timm_kwargs: Passed on to timm, e.g. ``drop_path_rate=0.1``.

    Raises:
        UnknownModelError: No such model; names the closest.
        WeightsNotFoundError: The weights are not on this machine.
        CheckpointError: A file that does not fit, with the tensors that do not.
        ConfigError: Arguments that contradict each other.
        HubAccessError: The hub repository cannot be read.
    """
    if name.startswith(("local-dir:", "hf-hub:")):
        if weights is not None:
            raise ConfigError(f"{name!r} brings its own weights: leave out weights={str(weights)!r}.")
        if timm_kwargs:
            raise ConfigError(f"{name!r} says how it is built: leave out {', '.join(sorted(timm_kwargs))}.")
        source, _, target = name.partition(":")
        path = Path(target) if source == "local-dir" else _download(target, cache_dir)
        return _from_file(path, num_classes=num_classes, head=head, img_size=img_size)
    if pretrained and weights is not None:
        raise ConfigError("pretrained=True and weights=... are two sources of weights: choose one.")
    backbone = _build_backbone(name, pretrained, _as_size(img_size), cache_dir, timm_kwargs)
    model = _with_head(backbone, head, num_classes)
    if weights is not None:
        from reidzoo.weights.official import load_weights

        load_weights(model, weights)
        if img_size is not None:
            _config(backbone)["input_size"] = (3, *_as_size(img_size))
    return model


def _build_backbone(
    name: str, pretrained: bool, size: tuple[int, int], cache_dir: str | Path | None, timm_kwargs: dict[str, Any]
) -> nn.Module:
    model: Any
    if name.startswith("timm/"):
        model = _build_timm(name[len("timm/") :], pretrained, size, {"cache_dir": cache_dir, **timm_kwargs})
        cfg: dict[str, Any] = {"input_size": (3, *size)}
    else:
        spec = model_info(name)
        if pretrained:
            raise WeightsNotFoundError(
                f"The pre-trained weights of {spec.name!r} are not on this machine. Their authors' licence allows "
                f"research use on request and no redistribution, so reidzoo does not ship them. Ask the authors "
                f"(https://github.com/Zplusdragon/CION_ReIDZoo) for {spec.official_stem}.pth, then type: "
                f"reidzoo.create_model({spec.name!r}, weights='{spec.official_stem}.pth')"
            )
        name = spec.name
        model = builder(spec.family).build(spec, img_size=size, **timm_kwargs)
        # What the timm configuration says of timm's own weights must not be taken for ours.
        cfg = {
            "input_size": (3, *size),
            "mean": spec.mean,
            "std": spec.std,
            "fixed_input_size": False,
            "num_classes": 0,
            "license": spec.license,
            "url": "",
            "hf_hub_id": None,
            "tag": "reidzoo",
        }
        model.num_features = model.head_hidden_size  # the width of model(x); timm's differs for GhostNet
    model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, **cfg}
    model.reidzoo_name = name
    model.reidzoo_kwargs = timm_kwargs
    model.embed_dim = getattr(model, "head_hidden_size", None) or model.num_features
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


def _as_size(img_size: int | tuple[int, int] | None) -> tuple[int, int]:
    if img_size is None:
        return _DEFAULT_SIZE
    pair = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise ConfigError(f"img_size is (height, width) in pixels, e.g. (256, 128), not {img_size!r}.")
    return pair[0], pair[1]


def _from_file(path: Path, *, num_classes: int, head: str | None, img_size: int | tuple[int, int] | None) -> nn.Module:
    """Rebuild a model from a file of `reidzoo.weights.save_model` alone; a file without a head may get a new one."""
    from reidzoo.weights.official import load_weights, read_metadata

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
    load_weights(model, path)
    if img_size is not None:
        _config(backbone)["input_size"] = (3, *_as_size(img_size))
    return model


def _config(backbone: nn.Module) -> dict[str, Any]:
    cfg: Any = backbone.pretrained_cfg
    return cfg  # type: ignore[no-any-return]


def _download(repo: str, cache_dir: str | Path | None) -> Path:
    """Fetch ``model.safetensors`` of a hub repository."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from reidzoo import __version__

    try:
        return Path(
            hf_hub_download(
                repo, "model.safetensors", cache_dir=cache_dir, library_name="reidzoo", library_version=__version__
            )
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as e:
        raise HubAccessError(
            f"model.safetensors of the hub repository {repo!r} cannot be read: {e}. Check the name, and type "
            f"`hf auth login` if the repository is gated; a file on this machine loads as 'local-dir:PATH'."
        ) from e
