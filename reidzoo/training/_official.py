"""Training checkpoints of the original CION and DINO code: go on from them, and write them.

The file is a dict of ``student``, ``teacher``, ``optimizer``, ``epoch`` (the next one) and the loss's state with its
centre. Student keys begin with ``module.``, teacher keys where the network has BatchNorm; then follow ``backbone.``
with the official names of the tensors, and ``head.``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reidzoo._files import atomic
from reidzoo._logging import get_logger
from reidzoo.errors import CheckpointError, ConfigError
from reidzoo.models import create_model, from_official, to_official
from reidzoo.training._checkpoint import load
from reidzoo.weights import read_metadata
from reidzoo.weights._files import read_pickle

if TYPE_CHECKING:
    from reidzoo.training.methods.dino import DINO

logger = get_logger(__name__)

_LOSSES = ("Loss", "dino_loss")
# torch's two spellings of weight normalisation.
_SPELLINGS = {
    "last_layer.parametrizations.weight.original0": "last_layer.weight_g",
    "last_layer.parametrizations.weight.original1": "last_layer.weight_v",
}
# What an optimiser keeps for each parameter: the entry that tells which it is.
_SLOTS = {"adamw": "exp_avg", "sgd": "momentum_buffer", "lars": "momentum_buffer"}
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index", "attn_mask")


def take_over(method: DINO, path: Path) -> int:
    """Put student, teacher, centre and, if it is there, the optimiser's state of an original run into `method`.

    Args:
        method: as it was built; its backbone has to be that of the file.
        path: ``checkpoint.pth`` of the original.

    Returns:
        The epoch that comes next, from 0.

    Raises:
        CheckpointError: the file is something else, or of another network or head.
        ConfigError: no epoch is left to train.
    """
    content = read_pickle(path)
    loss = next((content[name] for name in _LOSSES if name in content), None) if isinstance(content, dict) else None
    if loss is None or not {"student", "teacher", "epoch"} <= content.keys():
        raise CheckpointError(
            f"{path} is not a training checkpoint of CION or DINO: expected student, teacher, epoch and Loss (or "
            "dino_loss). To start from a backbone's weights alone, give them to the model: "
            f"reidzoo.create_model(NAME, weights={str(path)!r})"
        )
    epoch, epochs = int(content["epoch"]), method.config.epochs
    if epoch >= epochs:
        raise ConfigError(f"{path} has {epoch} finished epochs, and epochs is {epochs}: expected more than {epoch}")
    backbone: Any = method.network.backbone
    try:
        for network, name in ((method.network, "student"), (method.teacher, "teacher")):
            network.load_state_dict(_ours(content[name], backbone))
        method.criterion.load_state_dict(loss)
        if "optimizer" in content:
            method.optimizer.load_state_dict(_our_optimizer(content, method))
        else:
            logger.warning("%s has no optimiser: its moments start at zero", path)
    except (RuntimeError, ValueError, KeyError) as e:
        raise CheckpointError(
            f"{path} does not fit {getattr(backbone, 'reidzoo_name', 'the network')} with output_dim "
            f"{method.config.output_dim} and hidden_dim {method.config.hidden_dim}: {e}"
        ) from e
    return epoch


def export_training(run: Path, path: Path) -> Path:
    """Write the last checkpoint of a run as the original code writes its own.

    The optimiser's moments stay out: the original counts parameters in an order of its own, and starts new moments when
    they are missing. A run that was stopped within an epoch repeats this epoch there.

    Args:
        run: the run's folder, or its checkpoint.
        path: the file to write.

    Raises:
        CheckpointError: no checkpoint of a pre-training run.
        UnknownModelError: its backbone is not of the zoo, so that it has no official layout.
    """
    file = run / "checkpoints" / "last.pt" if run.is_dir() else run
    content, header = load(file), read_metadata(file)
    parts: Mapping[str, Any] = content["method"]
    if not {"student", "teacher", "loss"} <= parts.keys():
        raise CheckpointError(
            f"{file} is a checkpoint of method {header.get('method')!r}, which has no student and teacher. Its network "
            f"alone: reidzoo weights export {run} {path}"
        )
    with torch.device("meta"):
        backbone = create_model(header["model"])
    norm = any(isinstance(m, nn.modules.batchnorm._NormBase) for m in backbone.modules())
    official = {
        "student": _theirs(parts["student"], backbone, "module."),
        "teacher": _theirs(parts["teacher"], backbone, "module." if norm else ""),
        "Loss": dict(parts["loss"]),
        "epoch": content["position"][0],
        "reidzoo": header,
    }
    with atomic(path) as temporary:
        torch.save(official, temporary)
    return path


def _ours(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Student or teacher, or numbers of the optimiser for its parameters, under our names."""
    plain = {_plain(key): tensor for key, tensor in state.items()}
    names = {k.removeprefix("backbone."): t for k, t in plain.items() if k.startswith("backbone.")}
    if hasattr(backbone, "reidzoo_name") and not str(backbone.reidzoo_name).startswith("timm/"):
        names = from_official(names, backbone)
    return {f"backbone.{k}": t for k, t in names.items()} | {k: t for k, t in plain.items() if k.startswith("head.")}


def _theirs(state: Mapping[str, Tensor], backbone: nn.Module, prefix: str) -> dict[str, Tensor]:
    names = {k.removeprefix("backbone."): t for k, t in state.items() if k.startswith("backbone.")}
    renamed = {f"backbone.{k}": t for k, t in to_official(names, backbone).items()}
    renamed |= {k: t for k, t in state.items() if k.startswith("head.")}
    return {prefix + k: t.detach().clone() for k, t in renamed.items()}


def _plain(key: str) -> str:
    key = key.replace("_orig_mod.", "")
    while key.startswith("module."):
        key = key.removeprefix("module.")
    for new, old in _SPELLINGS.items():
        key = key.replace(new, old)
    return key


def _our_optimizer(content: Mapping[str, Any], method: DINO) -> dict[str, Any]:
    """The optimiser's state in our order of the parameters.

    It has numbers in place of names: those of matrices first, then those of vectors and biases, in the order in which
    the student's state dict lists them, frozen ones left out.
    """
    saved: Mapping[str, Any] = content["optimizer"]
    tensors = {key: t for key, t in content["student"].items() if not key.endswith(_BUFFERS)}
    if len(tensors) != sum(len(group["params"]) for group in saved["param_groups"]):  # the gain of weight normalisation
        tensors = {key: t for key, t in tensors.items() if not _plain(key).endswith("last_layer.weight_g")}
    vectors = [key for key, t in tensors.items() if t.ndim <= 1 or key.endswith(".bias")]
    order = [key for key in tensors if key not in set(vectors)] + vectors
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    found = {key: saved["state"][n] for key, n in zip(order, numbers, strict=True) if n in saved["state"]}
    if wrong := [key for key, slots in found.items() if slots and not _fits(slots, tensors[key])]:
        raise ValueError(f"the optimiser's state is not in the order of the student's parameters, at {wrong[0]}")
    kinds: Mapping[str, Any] = next(iter(found.values()), {})
    if kinds and _SLOTS[method.config.optimizer] not in kinds:
        raise ValueError(f"its optimiser keeps {', '.join(kinds)}, which is not what {method.config.optimizer} does")
    backbone: Any = method.network.backbone
    slots = {
        slot: _ours({key: _as_large(s[slot], tensors[key]) for key, s in found.items()}, backbone) for slot in kinds
    }
    scalars = {slot for slot, value in kinds.items() if torch.as_tensor(value).ndim == 0}
    names = {id(p): name for name, p in method.network.named_parameters()}
    ours = [names[id(p)] for group in method.optimizer.param_groups for p in group["params"]]
    state = {
        i: {slot: t[name].flatten()[0] if slot in scalars else t[name] for slot, t in slots.items()}
        for i, name in enumerate(ours)
        if kinds and name in slots[next(iter(kinds))]
    }
    return {"state": state, "param_groups": method.optimizer.state_dict()["param_groups"]}


def _fits(slots: Mapping[str, Any], like: Tensor) -> bool:
    return all(torch.as_tensor(v).shape in ((), like.shape) for v in slots.values())


def _as_large(value: Any, like: Tensor) -> Tensor:
    """Numbers travel as tensors of the parameter's shape, since the families know how to rename and reshape those."""
    tensor = torch.as_tensor(value)
    return tensor if tensor.ndim else tensor.expand(like.shape)
