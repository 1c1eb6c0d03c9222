"""Weights and models on the Hugging Face hub. There is no default repository: whoever runs one names it.

Downloads go through huggingface_hub alone, which resumes them, keeps them in its cache and serves them from there
without network.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from reidzoo import _env
from reidzoo._files import atomic
from reidzoo.errors import ConfigError, HubAccessError, LicenseNotAcceptedError, WeightsNotFoundError
from reidzoo.models import ModelSpec
from reidzoo.weights import licenses
from reidzoo.weights._hub_cache import LIBRARY, fetch
from reidzoo.weights._hub_errors import Target, explained
from reidzoo.weights._saved import read_metadata, save_model
from reidzoo.weights.cards import backbone_of, model_card, weights_license

_REPO = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*(?<![-.])(?<!\.git)", re.ASCII)
_REVISION = re.compile(r"[^\s@?#]+")
# What another reader needs to prepare images as the weights expect them, in timm's names.
_PREPROCESSING = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "fixed_input_size")


def set_hub_repo(repo: str | None) -> None:
    """Name the hub repository that ``pretrained=True`` loads from when the local store has no weights.

    It is kept in the environment variable ``REIDZOO_HUB_REPO``, so that processes started from here know it too.

    Args:
        repo: ``"owner/name"``, or ``"owner/name@revision"`` to pin a branch, tag or commit; None for no repository.

    Raises:
        ConfigError: Something else.
    """
    if repo is None:
        os.environ.pop("REIDZOO_HUB_REPO", None)
        return
    _parse(repo)
    os.environ["REIDZOO_HUB_REPO"] = repo


def hub_repo() -> tuple[str, str | None] | None:
    """Return the configured repository and its revision (None: the default branch), or None if there is none.

    Raises:
        ConfigError: ``REIDZOO_HUB_REPO`` is not ``owner/name`` or ``owner/name@revision``.
    """
    configured = _env.hub_repo()
    return _parse(configured, " in REIDZOO_HUB_REPO") if configured else None


def download(spec: ModelSpec, cache_dir: str | Path | None = None) -> Path:
    """Get the released weights of a backbone from the configured repository, or from the cache of earlier downloads.

    The repository holds ``<name>.safetensors`` or the official ``.pth``. The licence is the caller's business.

    Args:
        spec: The backbone.
        cache_dir: Where downloads are kept; None: huggingface_hub's cache (``HF_HOME``).

    Returns:
        The file, in the cache.

    Raises:
        WeightsNotFoundError: No repository is configured, or it has no file for this backbone.
        HubAccessError: It cannot be reached or read; says why and what to do.
        CheckpointError: The file did not arrive as it left.
    """
    configured = hub_repo()
    if configured is None:
        raise WeightsNotFoundError(
            "No hub repository is configured, and there is no default one. If your lab runs one, type: "
            "export REIDZOO_HUB_REPO=owner/name"
        )
    official = (f"{spec.official_stem}.pth",) if spec.official_stem else ()
    return fetch(*configured, (f"{spec.name}.safetensors", *official), cache_dir)


def download_model(repo: str, cache_dir: str | Path | None = None) -> Path:
    """Get the ``model.safetensors`` of a repository that `push_to_hub` or `save_pretrained` made.

    Args:
        repo: ``"owner/name"`` or ``"owner/name@revision"``.
        cache_dir: Where downloads are kept; None: huggingface_hub's cache (``HF_HOME``).

    Returns:
        The file, in the cache.

    Raises:
        ConfigError: `repo` is no name of a repository.
        WeightsNotFoundError: The repository has no such file.
        HubAccessError: It cannot be reached or read; says why and what to do.
        CheckpointError: The file did not arrive as it left.
    """
    return fetch(*_parse(repo), ("model.safetensors",), cache_dir)


def from_pretrained(source: str | Path, **options: Any) -> nn.Module:
    """Build a model with its weights from a folder, a hub repository or the zoo.

    Args:
        source: A folder or file of `save_pretrained`, ``"owner/name[@revision]"`` on the hub, or a name of
            `reidzoo.create_model` for its released weights. What exists on disk goes first.
        **options: Of `reidzoo.create_model`, e.g. ``head="bnneck", num_classes=751`` or ``cache_dir=...``.

    Raises:
        ReidzooError: Those of `reidzoo.create_model`.
    """
    from reidzoo.models import create_model

    name = str(source)
    if name.startswith(("local-dir:", "hf-hub:")):
        return create_model(name, **options)
    if Path(name).expanduser().exists() or not isinstance(source, str):
        return create_model(f"local-dir:{name}", **options)
    if "/" not in name or name.startswith("timm/"):
        return create_model(name, pretrained=True, **options)
    if not _REPO.fullmatch(name.partition("@")[0]):
        return create_model(f"local-dir:{name}", **options)
    try:
        return create_model(f"hf-hub:{name}", **options)
    except HubAccessError as e:
        raise HubAccessError(f"{e} (There is no folder {name} here either.)") from e


def save_pretrained(
    model: nn.Module, folder: str | Path, *, metrics: Mapping[str, Any] | None = None, license: str = "unknown"
) -> Path:
    """Write a folder that `from_pretrained`, the hub and timm read.

    It gets ``model.safetensors``, ``config.json`` and the model card, ``README.md``; each appears under its name only
    when it is complete. timm rebuilds a backbone from it (``timm.create_model("local-dir:<folder>")``); a model with a
    head is for reidzoo alone.

    Args:
        model: A model of `reidzoo.create_model`.
        folder: Where to; made if it is not there.
        metrics: Results for the model card, see `model_card`.
        license: Licence that you give your own weights, e.g. ``"apache-2.0"``; see `model_card`.

    Returns:
        The folder.

    Raises:
        ConfigError: The model is not of `create_model`, or `metrics` or `license` cannot be.
    """
    folder = Path(folder)
    card = model_card(model, metrics=metrics, license=license)
    header = read_metadata(save_model(model, folder))
    texts = {"config.json": json.dumps(_config(model, header), indent=2) + "\n", "README.md": card}
    for name, text in texts.items():
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool = True,
    allow_licensed: bool = False,
    metrics: Mapping[str, Any] | None = None,
    license: str = "unknown",
    commit_message: str = "Add model",
) -> str:
    """Upload what `save_pretrained` writes as one commit; files of the same names there are replaced.

    Weights under a licence that forbids passing them on, and what was trained from them, go only to a private or gated
    repository, and only if you say so: whether you may do that at all is between you and the rights holders.

    Args:
        model: A model of `reidzoo.create_model`.
        repo_id: ``"owner/name"``; made if it is not there.
        private: Whether a repository that is made here is private. One that exists stays as it is.
        allow_licensed: Upload licensed weights.
        metrics: Results for the model card, see `model_card`.
        license: Licence that you give your own weights; see `model_card`.
        commit_message: First line of the commit's message.

    Returns:
        Address of the commit.

    Raises:
        LicenseNotAcceptedError: The weights are licensed and the conditions above do not hold.
        ConfigError: `repo_id` is no name, or as of `save_pretrained`.
        HubAccessError: The repository cannot be reached or written; says why and what to do.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    repo, revision = _parse(repo_id)
    if revision is not None:
        raise ConfigError(f"push_to_hub writes to the default branch: leave '@{revision}' out of {repo_id!r}.")
    if licensed := weights_license(model):
        _refuse_unasked(licensed, allow_licensed)
    api = HfApi(**LIBRARY)
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, metrics=metrics, license=license)
        files = [CommitOperationAdd(file.name, file) for file in sorted(Path(folder).iterdir())]
        with explained(Target(repo, what="the upload")):
            if _visibility(api, repo) is None:
                if licensed and not private:
                    raise _refusal(licensed, repo, "would be made public. Leave out private=False")
                api.create_repo(repo, private=private, exist_ok=True)
            # Asked right before the upload: who may read it can have changed, or not be what we asked for.
            if licensed and _visibility(api, repo) not in ("private", "gated"):
                raise _refusal(licensed, repo, "is public. Make it private or gated in its settings, then try again")
            return str(api.create_commit(repo, files, commit_message=commit_message).commit_url)


def _parse(repo: str, where: str = "") -> tuple[str, str | None]:
    """``owner/name[@revision]`` -> (``owner/name``, revision or None)."""
    name, at, revision = repo.partition("@")
    if not _REPO.fullmatch(name) or (at and not _REVISION.fullmatch(revision)):
        raise ConfigError(f"Expected 'owner/name' or 'owner/name@revision' of a hub repository{where}, found {repo!r}.")
    return name, revision or None


def _config(model: Any, header: dict[str, str]) -> dict[str, Any]:
    """``config.json`` in timm's form. A model with a head has no `architecture`: timm could not load it."""
    backbone: Any = backbone_of(model)
    name: str = backbone.reidzoo_name
    cfg = {key: backbone.pretrained_cfg[key] for key in _PREPROCESSING if key in backbone.pretrained_cfg}
    for key in ("first_conv", "classifier"):
        cfg[key] = backbone.pretrained_cfg.get(key)
    cfg |= {"num_classes": 0, "license": header.get("license") or None}
    # timm remembers what a model was built with; what cannot be written is a default or in the header.
    built = getattr(backbone, "_model_args", {}) if name.startswith("timm/") else {}
    args = {k: v for k, v in {**built, **json.loads(header["timm_kwargs"])}.items() if _plain(v)}
    config = {
        "architecture": name[len("timm/") :] if name.startswith("timm/") else f"reidzoo_{name}",
        "num_classes": 0,
        "num_features": backbone.embed_dim,
        "global_pool": getattr(backbone, "global_pool", None),
        "model_args": args,
        "pretrained_cfg": cfg,
        "reidzoo": dict(sorted(header.items())),
    }
    if header["head"]:
        del config["architecture"]
    return {key: value for key, value in config.items() if _plain(value)}


def _plain(value: Any) -> bool:
    """Whether JSON can say `value`, and there is something to say."""
    try:
        return value is not None and bool(json.dumps(value))
    except (TypeError, ValueError):
        return False


def _refuse_unasked(licensed: str, allow_licensed: bool) -> None:
    terms = licenses.get(licensed)
    if not allow_licensed:
        raise LicenseNotAcceptedError(
            f"These weights are, or were trained from, those under the licence {licensed!r} ({terms.title}): "
            f"{' '.join(terms.terms[:2])} To put them into a private or gated repository of people who all hold that "
            f"licence, and if it allows you to, add allow_licensed=True."
        )
    licenses.require(licensed)


def _refusal(licensed: str, repo: str, why: str) -> LicenseNotAcceptedError:
    return LicenseNotAcceptedError(
        f"Nothing was uploaded: the weights are under the licence {licensed!r}, and {Target(repo).page} {why}."
    )


def _visibility(api: Any, repo: str) -> str | None:
    """Who may read a repository: "private", "gated" or "public"; None if there is none that we may see."""
    from huggingface_hub.utils import GatedRepoError, RepositoryNotFoundError

    try:
        info = api.model_info(repo)
    except GatedRepoError:  # a kind of RepositoryNotFoundError
        return "gated"
    except RepositoryNotFoundError:
        return None
    return "private" if info.private else "gated" if info.gated else "public"
