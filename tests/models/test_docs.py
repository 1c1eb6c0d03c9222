"""The zoo table of the documentation is the zoo."""

from __future__ import annotations

from pathlib import Path

import reidzoo


def test_zoo_table():
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `") and line.endswith(".pth` |")]
    expected = []
    for spec in map(reidzoo.model_info, reidzoo.list_models()):
        r = next(r for r in spec.results if r.method == "transreid")
        expected.append(
            f"| `{spec.name}` | {spec.embed_dim} | {spec.params_m:.2f} | {spec.flops_g:.2f} "
            f"| {r.market_map} / {r.market_r1} | {r.msmt_map} / {r.msmt_r1} | `{spec.official_stem}.pth` |"
        )
    assert rows == expected
