"""reidzoo: person re-identification backbones, pre-training, fine-tuning and evaluation.

Names are imported on first use (PEP 562), so ``import reidzoo`` and ``reidzoo.list_models()`` do not import torch. Once
timm is imported, it knows the zoo's models as ``reidzoo_<name>``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from reidzoo._after_import import after_import as _after_import
from reidzoo._lazy import lazy
from reidzoo._version import __version__

if TYPE_CHECKING:
    from reidzoo.data import Records, ReIDDataset, load_dataset
    from reidzoo.errors import ReidzooError
    from reidzoo.eval.evaluate import evaluate
    from reidzoo.eval.extractor import Extractor
    from reidzoo.eval.features import extract_features
    from reidzoo.eval.metrics import compute_metrics
    from reidzoo.eval.preprocess import create_transform
    from reidzoo.eval.report import EvalResult
    from reidzoo.eval.rerank import rerank
    from reidzoo.models import ModelSpec, create_model, list_models, model_info
    from reidzoo.training import recipes
    from reidzoo.training._run import TrainResult
    from reidzoo.training.finetune import finetune
    from reidzoo.training.labels.cfs import cfs_scores
    from reidzoo.training.labels.seeking import seek_identities
    from reidzoo.training.pretrain import pretrain
    from reidzoo.weights import from_pretrained, licenses, push_to_hub, save_pretrained

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
    "Extractor": "eval",
    "rerank": "eval",
    "pretrain": "training.pretrain",
    "finetune": "training.finetune",
    "TrainResult": "training._run",
    "cfs_scores": "training.labels.cfs",
    "recipes": "training",
    "seek_identities": "training.labels.seeking",
    "ReidzooError": "errors",
    "from_pretrained": "weights",
    "licenses": "weights",
    "push_to_hub": "weights",
    "save_pretrained": "weights",
}
_SUBMODULES = ("data", "errors", "eval", "models", "training", "weights")

__all__ = [
    "EvalResult",
    "Extractor",
    "ModelSpec",
    "ReIDDataset",
    "Records",
    "ReidzooError",
    "TrainResult",
    "__version__",
    "cfs_scores",
    "compute_metrics",
    "create_model",
    "create_transform",
    "evaluate",
    "extract_features",
    "finetune",
    "from_pretrained",
    "licenses",
    "list_models",
    "load_dataset",
    "model_info",
    "pretrain",
    "push_to_hub",
    "recipes",
    "rerank",
    "save_pretrained",
    "seek_identities",
]


__getattr__, __dir__ = lazy(__name__, _EXPORTS, _SUBMODULES)


_after_import("timm", lambda: import_module("reidzoo.models._timm_door").register())
