"""From a released file to the local store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from reidzoo._files import sha256
from reidzoo._logging import get_logger, progress
from reidzoo.errors import CheckpointError, ConfigError, WeightsNotFoundError
from reidzoo.models import ModelSpec, create_model, model_info
from reidzoo.weights import licenses, store
from reidzoo.weights._files import is_safetensors
from reidzoo.weights._identify import identify
from reidzoo.weights._saved import header_of, write_safetensors
from reidzoo.weights.official import Weights, backbone_tensors, fit_backbone, read_weights
from reidzoo.weights.store import Entry

_logger = get_logger(__name__)
_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".safetensors")


def import_official(path: str | Path, *, name: str | None = None, link: bool = False) -> list[Entry]:
    """Put released checkpoint files into the local store, where ``create_model(name, pretrained=True)`` finds them.

    What a file holds is told by its tensors. They are checked one by one and written, renamed and otherwise bit for bit
    as they were, to ``$REIDZOO_HOME/weights/<name>.safetensors``. The file itself is only read.

    Args:
        path: A file, or a folder, in which all checkpoint files are imported.
        name: The backbone, for a file that may be several (some releases share an architecture).
        link: Only register the file: it stays as it is, where it is, and is read there.

    Returns:
        What the store now has, one entry per file.

    Raises:
        WeightsNotFoundError: Nothing at `path`.
        LicenseNotAcceptedError: The terms of these weights have not been accepted here.
        CheckpointError: Files that are damaged, unsafe, or hold something else. Of a folder, all good files are
            imported first; the error names the others.
        StoreError: The store cannot be written.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise WeightsNotFoundError(f"There is no file or folder {path}.")
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in _SUFFIXES and f.is_file())
    if not files:
        raise WeightsNotFoundError(f"{path} has no checkpoint files ({', '.join(_SUFFIXES)}).")
    if name is not None and len(files) > 1:
        raise ConfigError(f"name={name!r} is for one file, and {path} has {len(files)}.")
    done: dict[str, Entry] = {}
    failed: list[str] = []
    for file in progress(files, desc="Importing", unit="file"):
        try:
            entry = _import_file(file, name, link, done)
            store.verify(entry)  # here, where the tensors of the source are no longer in memory
        except CheckpointError as e:
            if len(files) == 1:
                raise
            failed.append(str(e))
            continue
        done[entry.name] = entry
    if failed:
        raise CheckpointError(
            f"{len(done)} of {len(files)} files of {path} were imported ({', '.join(done) or 'none'}). The others were "
            f"not:\n" + "\n".join(f"- {reason}" for reason in failed)
        )
    return list(done.values())


def content_sha256(tensors: Iterable[tuple[str, Tensor]], header: Mapping[str, str]) -> str:
    """Checksum of header entries (all but the checksum itself) and of name, type, shape and bytes of sorted tensors."""
    digest = hashlib.sha256()
    digest.update(json.dumps(sorted((k, v) for k, v in header.items() if k != "content_sha256")).encode())
    for key, tensor in tensors:
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _import_file(file: Path, name: str | None, link: bool, done: Mapping[str, Entry]) -> Entry:
    weights = read_weights(file)
    if code := weights.metadata.get("written_by"):
        raise CheckpointError(
            f"{file} holds a network that was fine-tuned ({code}), not the released backbone, which was expected. To "
            f"use it in place: reidzoo.create_model('local-dir:{file}')"
        )
    spec = _spec(file, weights, name)
    licenses.require(spec.license)
    with torch.device("meta"):
        backbone = create_model(spec.name)
    state = fit_backbone(backbone, weights, file)
    kinds = sorted({str(t.dtype) for t in state.values() if t.is_floating_point()})
    if kinds != ["torch.float32"]:
        raise CheckpointError(
            f"{file} holds {', '.join(kinds)} tensors, a reduced copy of {spec.name!r}: its features differ from those "
            f"of the released float32 file, which was expected. To use it in place: "
            f"reidzoo.create_model({spec.name!r}, weights={str(file)!r})"
        )
    if file.stem != spec.official_stem:
        _logger.info("%s holds %s, told by its tensors", file, spec.name)
    source_sha256 = sha256(file)
    if (other := done.get(spec.name)) is not None:
        if other.source_sha256 == source_sha256:
            return other
        raise CheckpointError(
            f"{file} holds {spec.name!r} too, with other numbers than {other.source}, which was imported. Import the "
            f"right one alone: reidzoo weights import FILE"
        )
    if link:
        return store.link(spec.name, file, license=spec.license)
    backbone.weights_license = weights.metadata.get("license") or spec.license  # type: ignore[assignment]
    header = header_of(backbone) | {"layout": "timm", "source": str(file.resolve()), "source_sha256": source_sha256}
    header["content_sha256"] = content_sha256(sorted(state.items()), header)
    with store.writing(spec.name, sum(t.nbytes for t in state.values())) as target:
        write_safetensors(state, target, header)
        store.forget_link(spec.name)
    entry = store.find(spec.name)
    assert entry is not None
    return entry


def _spec(file: Path, weights: Weights, name: str | None) -> ModelSpec:
    if name is not None:
        return model_info(name)
    if is_safetensors(file) and weights.metadata.get("model"):
        return model_info(weights.metadata["model"])
    return identify(weights, backbone_tensors(weights.tensors), file)
