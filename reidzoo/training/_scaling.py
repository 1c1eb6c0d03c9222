"""What lets a big network train: recomputed activations, compiled networks, several ranks, sharded optimiser state.

None of it changes what is computed, up to rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from reidzoo.errors import ConfigError
from reidzoo.training._distributed import World


def distribute(network: nn.Module, world: World) -> nn.Module:
    """Return `network` as it is on one rank, else wrapped so that its gradients are averaged over the ranks."""
    if world.size == 1:
        return network
    return DistributedDataParallel(network, device_ids=[world.device] if world.device.type == "cuda" else None)


@contextmanager
def learning_afterwards(network: nn.Module) -> Iterator[None]:
    """Let what learns now learn afterwards too, though a method may have let it rest when the run ended."""
    learning = [p for p in network.parameters() if p.requires_grad]
    try:
        yield
    finally:
        for p in learning:
            p.requires_grad_()


@contextmanager
def compiled(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Let calls of `networks` go through torch.compile; names of tensors and modules stay, and copies are plain."""
    with ExitStack() as after:
        for network in networks:
            # Global and local views are two shapes: two graphs are faster than one for any shape.
            network.compile(dynamic=False)
            after.callback(setattr, network, "_compiled_call_impl", None)
        yield


@contextmanager
def recomputed(network: nn.Module) -> Iterator[None]:
    """Let the backbone in `network` forget its blocks' activations, and compute them again for the backward pass.

    Raises:
        ConfigError: the backbone cannot.
    """
    for module in network.modules():  # parents first
        switch: Any = getattr(module, "set_grad_checkpointing", None)
        if switch is not None:
            break
    else:
        raise ConfigError(
            "grad_checkpointing needs a backbone with timm's set_grad_checkpointing(enable); this one has none. Use "
            "micro_batch to save memory instead."
        )
    try:
        switch(True)
    except (AssertionError, NotImplementedError) as e:  # what timm's networks raise that have the method only
        raise ConfigError(f"this backbone has no grad_checkpointing ({e}). Use micro_batch to save memory.") from e
    try:
        yield
    finally:
        switch(False)


@contextmanager
def statistics_at_rest(network: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics as they are: activations that are computed again must not count twice."""
    norms = [m for m in network.modules() if getattr(m, "track_running_stats", False)]
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())  # to be moved in its place
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


def shard(optimizer: Optimizer, world: World) -> Optimizer:
    """Return an optimiser of the same kind whose state is shared out: each rank keeps and updates whole tensors.

    Source: Rajbhandari et al., "ZeRO", SC 2020, stage 1. On one rank it is `optimizer` itself.
    """
    if world.size == 1:
        return optimizer
    known = inspect.signature(type(optimizer)).parameters  # torch's defaults hold more than its constructors take
    defaults = {name: value for name, value in optimizer.defaults.items() if name in known}
    sharded = ZeroRedundancyOptimizer(optimizer.param_groups, type(optimizer), **defaults)
    if optimizer.state:  # of a run that another program began
        load_state(sharded, optimizer.state_dict())
    return sharded


def whole_state(optimizer: Optimizer, world: World) -> dict[str, Any]:
    """Return the optimiser's state on rank 0, {} on the others; all ranks have to call it.

    The state of a sharded optimiser is gathered, so that any number of ranks, sharded or not, can go on from it.
    """
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.consolidate_state_dict(to=0)
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)  # it copies to the CPU without waiting
    return optimizer.state_dict() if world.is_main else {}


def load_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Take over a `whole_state`; of a sharded optimiser, each rank takes its part.

    Raises:
        ValueError: the state is of other parameter groups.
    """
    if not isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.load_state_dict(state)
        return
    # Not by its own load_state_dict: that one keeps a second copy, and puts a fused AdamW's counters on the CPU.
    number: dict[Any, int] = {}
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        number.update(zip(group["params"], saved["params"], strict=True))
        group.update({name: value for name, value in saved.items() if name != "params"})
    mine = [[number[p] for p in group["params"]] for group in optimizer.optim.param_groups]
    groups = [{**saved, "params": part} for saved, part in zip(state["param_groups"], mine, strict=True)]
    states = {i: state["state"][i] for part in mine for i in part if i in state["state"]}
    optimizer.optim.load_state_dict({"state": states, "param_groups": groups})
