"""reidzoo: person re-identification backbones, pre-training, fine-tuning and evaluation.

Names are imported on first use (PEP 562), so ``import reidzoo`` and ``reidzoo.list_models()`` do not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reidzoo._version import __version__

if TYPE_CHECKING:
    from reidzoo.data import Records, ReIDDataset, load_dataset
    from reidzoo.errors import ReidzooError
    from reidzoo.eval.evaluate import evaluate
    from reidzoo.eval.features import extract_features
    from reidzoo.eval.metrics import compute_metrics
    from reidzoo.eval.preprocess import create_transform
    from reidzoo.eval.report import EvalResult
    from reidzoo.models import ModelSpec, create_model, list_models, model_info
    from reidzoo.training._run import TrainResult
    from reidzoo.training.finetune import finetune
    from reidzoo.training.pretrain import pretrain

_EXPORTS = {
    "create_model": "models",
    "create_transform": "eval",
    "list_models": "models",
    "model_info": "models",
    "ModelSpec": "models",
    "load_dataset": "data",
    "Records": "data",
    "ReIDDataset": "data",
    "evaluate": "eval",
    "compute_metrics": "eval",
    "extract_features": "eval",
    "EvalResult": "eval",
    "pretrain": "training.pretrain",
    "finetune": "training.finetune",
    "TrainResult": "training._run",
    "ReidzooError": "errors",
}
_SUBMODULES = ("data", "errors", "eval", "models", "training", "weights")

__all__ = [
    "EvalResult",
    "ModelSpec",
    "ReIDDataset",
    "Records",
    "ReidzooError",
    "TrainResult",
    "__version__",
    "compute_metrics",
    "create_model",
    "create_transform",
    "evaluate",
    "extract_features",
    "finetune",
    "list_models",
    "load_dataset",
    "model_info",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"reidzoo.{_EXPORTS[name]}"), name)
    if name in _SUBMODULES:
        return import_module(f"reidzoo.{name}")
    raise AttributeError(f"module 'reidzoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES})
