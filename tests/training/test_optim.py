from __future__ import annotations

import numpy as np
import torch
from torch import nn

from reidzoo.training.optim import build_optimizer, clip_each, decay_groups, rate_groups


def network() -> nn.Module:
    net = nn.Module()
    net.pos_embed = nn.Parameter(torch.zeros(1, 4, 3))
    net.linear = nn.Linear(3, 2)
    net.norm = nn.BatchNorm1d(2)
    net.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    net.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
    return net


def names(net: nn.Module, group: dict) -> set[str]:
    return {n for n, p in net.named_parameters() if any(p is q for q in group["params"])}


def test_weight_decay_spares_vectors_and_biases() -> None:
    net = network()
    decayed, plain = decay_groups(net)
    assert names(net, decayed) == {"pos_embed", "linear.weight", "relative_position_bias_table"}
    assert names(net, plain) == {"linear.bias", "norm.weight", "norm.bias"}
    assert plain["weight_decay"] == 0.0


def test_bias_rule_goes_by_substring() -> None:
    net = network()
    plain, bias = rate_groups(net, 0.1, lambda name: 2.0 if "bias" in name else 1.0)
    assert names(net, bias) == {"linear.bias", "norm.bias", "relative_position_bias_table"}
    assert (plain["lr"], bias["lr"], bias["base_lr"]) == (0.1, 0.2, 0.2)
    assert names(net, plain) == {"pos_embed", "linear.weight", "norm.weight"}


def test_clipping_is_per_tensor() -> None:
    a, b, c = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    a.grad, b.grad = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([0.1, 0.0, 0.0])
    clip_each([a, b, c], 2.5)
    torch.testing.assert_close(a.grad, torch.tensor([1.5, 2.0, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(b.grad, torch.tensor([0.1, 0.0, 0.0]))
    assert c.grad is None


def test_lars_by_hand() -> None:
    """Two steps of the rule written out with numpy: scaling and decay for matrices alone, then a heavy ball."""
    g = torch.Generator().manual_seed(0)
    matrix, vector, still = (nn.Parameter(torch.randn(s, generator=g)) for s in ((3, 2), (3,), (2, 2)))
    still.data.zero_()
    groups = [{"params": [matrix, still]}, {"params": [vector], "weight_decay": 0.0}]
    optimizer = build_optimizer("lars", groups, lr=0.5, weight_decay=0.1)
    expected = {p: (p.detach().double().numpy().copy(), 0.0) for p in (matrix, vector, still)}
    for _ in range(2):
        for p in expected:
            p.grad = torch.randn(p.shape, generator=g)
            value, ball = expected[p]
            update = p.grad.double().numpy()
            if p.ndim > 1:
                update = update + 0.1 * value
                if np.linalg.norm(value) > 0:
                    update = update * 0.001 * np.linalg.norm(value) / np.linalg.norm(update)
            ball = 0.9 * ball + update
            expected[p] = value - 0.5 * ball, ball
        optimizer.step()
    for p, (value, _) in expected.items():
        np.testing.assert_allclose(p.detach().numpy(), value, rtol=1e-4)


def test_optimisers_by_name() -> None:
    adamw, sgd = (build_optimizer(n, decay_groups(network()), lr=0.1, weight_decay=0.2) for n in ("adamw", "sgd"))
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["betas"], adamw.defaults["eps"]) == ((0.9, 0.999), 1e-8)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["momentum"] == 0.9
    assert [g["weight_decay"] for g in adamw.param_groups] == [0.2, 0.0]
