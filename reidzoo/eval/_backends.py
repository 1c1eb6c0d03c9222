"""Where nearest neighbours come from: one small interface, several libraries.

A backend holds prepared gallery rows (float32, none longer than 1) and proposes neighbours. What the user sees is
decided above it, in `index.py`, the same for all of them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from reidzoo.errors import CheckpointError, ConfigError
from reidzoo.eval._inputs import Index
from reidzoo.eval._ranks import Vectors

BACKENDS = ("auto", "faiss", "torch", "faiss-gpu")
_ROWS = 65536  # gallery rows prepared, or multiplied, at a time
_TILE_BYTES = 64 << 20  # of similarities held at a time

Floats = NDArray[np.float32]


class Backend(Protocol):
    """Finds candidates among the gallery rows it was built with."""

    exact: bool

    def nearest(self, rows: Floats, k: int) -> tuple[Floats, Index]:
        """Return similarities (n, k), descending, and gallery positions (n, k); -1 where there are fewer than k.

        Similarities are cosines, or ``-d^2 / 2``.
        """


def create_backend(
    gallery: Vectors, backend: str, device: str | torch.device, kind: str, parameters: str, file: Path | None = None
) -> Backend:
    """Build the backend of that name, or an approximate index if `kind` is a factory string of faiss.

    Args:
        gallery: The images.
        backend: One of `BACKENDS`, checked.
        device: Of the torch backend.
        kind: ``"exact"`` or a factory string, like ``"IVF1024,Flat"``.
        parameters: Settings of the search of an approximate index, like ``"nprobe=16"``.
        file: An approximate index that was written by faiss: read instead of built.
    """
    if kind != "exact":
        return ApproximateBackend(gallery, kind, parameters, file)
    cuda = torch.cuda.is_available()
    if backend == "torch" or (backend == "auto" and cuda):
        return TorchBackend(gallery, torch.device(("cuda" if cuda else "cpu") if device == "auto" else device))
    return GpuFaissBackend(gallery) if backend == "faiss-gpu" else FaissBackend(gallery)


class FaissBackend(Backend):
    """faiss on the CPU, exact."""

    exact = True

    def __init__(self, gallery: Vectors) -> None:
        self._rows, self._cosine = prepared(gallery), gallery.scale is None

    def nearest(self, rows: Floats, k: int) -> tuple[Floats, Index]:
        metric = faiss.METRIC_INNER_PRODUCT if self._cosine else faiss.METRIC_L2
        values, indices = faiss.knn(rows, self._rows, k, metric=metric)
        return _similarity(values, indices, self._cosine)


class GpuFaissBackend(Backend):
    """faiss on all GPUs, exact: the gallery is shared out among them; one GPU takes torch's tensors as they are."""

    exact = True

    def __init__(self, gallery: Vectors) -> None:
        gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
        if gpus == 0:
            raise ConfigError(
                "backend='faiss-gpu' needs a GPU and a faiss that was built for it; this is faiss "
                f"{faiss.__version__} with {gpus} GPUs. Install it with: pip install 'reidzoo[gpu]'. "
                "backend='torch' runs on the GPU without it."
            )
        self._cosine = gallery.scale is None
        self._metric = faiss.METRIC_INNER_PRODUCT if self._cosine else faiss.METRIC_L2
        rows = prepared(gallery)
        if gpus == 1:
            import_module("faiss.contrib.torch_utils")  # teaches faiss torch's tensors
            self._resources = faiss.StandardGpuResources()
            self._rows = torch.from_numpy(rows).to("cuda")
        else:
            options = faiss.GpuMultipleClonerOptions()
            options.shard = True
            flat = faiss.index_factory(rows.shape[1], "Flat", self._metric)
            self._index = faiss.index_cpu_to_all_gpus(flat, co=options)
            self._index.add(rows)

    def nearest(self, rows: Floats, k: int) -> tuple[Floats, Index]:
        if k > 2048:
            raise ConfigError(f"faiss finds at most 2048 neighbours on a GPU, not {k}; use backend='torch'.")
        if hasattr(self, "_index"):
            values, indices = self._index.search(rows, k)
        else:
            queries = torch.from_numpy(rows).to("cuda")
            found = faiss.knn_gpu(self._resources, queries, self._rows, k, metric=self._metric)
            values, indices = (x.cpu().numpy() for x in found)
        return _similarity(values, indices, self._cosine)


class TorchBackend(Backend):
    """Products in tiles and their largest values, on any device of torch, exact."""

    exact = True

    def __init__(self, gallery: Vectors, device: torch.device) -> None:
        self._rows = torch.from_numpy(prepared(gallery)).to(device)
        self._half = None if gallery.scale is None else torch.linalg.vecdot(self._rows, self._rows) / 2

    def nearest(self, rows: Floats, k: int) -> tuple[Floats, Index]:
        width = min(len(self._rows), _ROWS)
        height = max(1, _TILE_BYTES // (4 * width))
        parts = [self._block(torch.from_numpy(rows[i : i + height]), k, width) for i in range(0, len(rows), height)]
        values, indices = (np.concatenate(x) for x in zip(*parts, strict=True))
        return values, indices

    def _block(self, rows: torch.Tensor, k: int, width: int) -> tuple[Floats, Index]:
        rows = rows.to(self._rows.device)
        values = rows.new_empty((len(rows), 0))
        indices = torch.empty((len(rows), 0), dtype=torch.int64, device=rows.device)
        for start in range(0, len(self._rows), width):
            tile = rows @ self._rows[start : start + width].T
            if self._half is not None:
                tile -= self._half[start : start + width]
            v, i = tile.topk(min(k, tile.shape[1]))
            values, indices = torch.cat([values, v], 1), torch.cat([indices, i + start], 1)
            values, order = values.topk(min(k, values.shape[1]))
            indices = indices.gather(1, order)
        if self._half is not None:
            values -= torch.linalg.vecdot(rows, rows)[:, None] / 2
        return values.cpu().numpy(), indices.cpu().numpy()


class ApproximateBackend(Backend):
    """An index of faiss that does not look at every image, for galleries that outgrow exact search."""

    exact = False

    def __init__(self, gallery: Vectors, kind: str, parameters: str, file: Path | None) -> None:
        self._cosine = gallery.scale is None
        if file is not None:
            self.index = _read(file)
            if self.index.ntotal != len(gallery):
                raise CheckpointError(
                    f"{file} holds {self.index.ntotal} images, expected {len(gallery)}. Build it anew."
                )
        else:
            self.index = _build(gallery, kind, self._cosine)
        if parameters:
            try:
                space: Any = faiss.ParameterSpace()
                space.set_index_parameters(self.index, parameters)
            except RuntimeError as e:
                raise ConfigError(f"faiss does not know parameters={parameters!r} for {kind!r}: {_last(e)}") from e

    def nearest(self, rows: Floats, k: int) -> tuple[Floats, Index]:
        values, indices = self.index.search(rows, k)
        return _similarity(values, indices, self._cosine)


def prepared(vectors: Vectors) -> Floats:
    """Return all rows as float32, ready to be multiplied."""
    out = np.empty((len(vectors), vectors.rows.shape[1]), np.float32)
    for start in range(0, len(out), _ROWS):
        out[start : start + _ROWS] = vectors.take(slice(start, start + _ROWS), np.float32)[0]
    return out


def _similarity(values: Floats, indices: Index, cosine: bool) -> tuple[Floats, Index]:
    """faiss gives the squared distance as the Euclidean value."""
    return (values if cosine else values * np.float32(-0.5)), indices.astype(np.int64)


def _build(gallery: Vectors, kind: str, cosine: bool) -> Any:
    rows = prepared(gallery)
    try:
        index = faiss.index_factory(rows.shape[1], kind, faiss.METRIC_INNER_PRODUCT if cosine else faiss.METRIC_L2)
        index.train(rows)
        index.add(rows)
    except RuntimeError as e:
        raise ConfigError(
            f"faiss cannot build {kind!r} from {len(rows)} images of {rows.shape[1]} dimensions: {_last(e)}"
        ) from e
    return index


def _read(file: Path) -> Any:
    try:
        return faiss.read_index(str(file))
    except RuntimeError as e:
        raise CheckpointError(f"{file} is no index of faiss: {_last(e)}. Build it anew.") from e


def _last(error: RuntimeError) -> str:
    """What faiss says, without where in its sources."""
    return str(error).strip().splitlines()[-1].rpartition(": ")[2]
