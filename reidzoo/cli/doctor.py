"""`reidzoo doctor`."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from reidzoo import _env
from reidzoo._version import __version__
from reidzoo.cli._table import pairs
from reidzoo.errors import ReidzooError

# Distribution -> module, of what `pip install reidzoo` brings.
_CORE = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "huggingface_hub": "huggingface_hub",
    "safetensors": "safetensors",
    "faiss-cpu": "faiss",
    "numpy": "numpy",
    "pillow": "PIL",
    "tqdm": "tqdm",
}
_OPTIONAL = {"tensorboard": "train"}  # distribution -> the extra that brings it
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if a package that reidzoo needs is missing or does not import."""
    packages = {name: _package(name, module) for name, module in _CORE.items()}
    report = {
        "system": _system(),
        "packages": packages,
        "extras": {name: _extra(name, extra) for name, extra in _OPTIONAL.items()},
        "devices": _devices(),
        "folders": {"data (REIDZOO_DATA)": _folder(_env.data_root()), "home (REIDZOO_HOME)": _folder(_env.home())},
        "weights": _weights(),
        "licences": _licenses(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith("REIDZOO_") or k in _VARIABLES},
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n\n".join(f"{title}\n{pairs(content.items())}" for title, content in report.items() if content))
    return 1 if any(version.startswith("BROKEN") for version in packages.values()) else 0


def _system() -> dict[str, str]:
    return {
        "reidzoo": f"{__version__} ({Path(__file__).parents[1]})",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "processor": f"{os.cpu_count()} cores, {platform.machine()}",
    }


def _package(name: str, module: str) -> str:
    """Its version; it is imported, because a package may be installed and unusable (a torchvision of another torch)."""
    try:
        imported = importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as e:
        first = (str(e).splitlines() or [type(e).__name__])[0]
        return f"BROKEN: {first}. Type: pip install --upgrade --force-reinstall {name}"
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # faiss from conda, for example
        return str(getattr(imported, "__version__", "unknown version"))


def _extra(name: str, extra: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed (pip install 'reidzoo[{extra}]')"


def _devices() -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        import torch
    except (ImportError, OSError):
        return found
    found["torch build"] = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    found["torch threads"] = str(torch.get_num_threads())
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties: Any = torch.cuda.get_device_properties(i)
        found[f"GPU {i}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        found["GPU"] = "none that torch can use"
    try:
        import faiss
    except (ImportError, OSError):
        return found
    found["faiss build"] = f"{faiss.get_compile_options().strip()}, {faiss.omp_get_max_threads()} threads"
    return found


def _weights() -> dict[str, str]:
    from reidzoo.weights import store

    try:
        entries = store.entries()
    except (ReidzooError, OSError) as e:
        return {"store": f"BROKEN: {e}"}
    size = sum(entry.size for entry in entries) / 1e6
    return {"store": f"{store.folder()}: {len(entries)} backbones, {size:,.0f} MB", "hub": _env.hub_repo() or "none"}


def _licenses() -> dict[str, str]:
    from reidzoo.weights import licenses

    accepted = {license_id: licenses.accepted(license_id) for license_id in licenses.LICENSES}
    return {license_id: f"accepted {a.accepted_at}" if a else "not accepted" for license_id, a in accepted.items()}


def _folder(path: Path) -> str:
    path = path.absolute()
    there = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(there).free / 2**30
    return f"{path} ({'exists' if path.exists() else 'not there yet'}, {free:.1f} GiB free)"
