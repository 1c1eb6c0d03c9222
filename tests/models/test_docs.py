"""The zoo tables of the documentation are the zoo."""

from __future__ import annotations

from pathlib import Path

import pytest

import reidzoo

TEXT = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def table(section):
    """The rows of the table below the marker."""
    text = TEXT.split(f"<!-- {section} table: checked by tests/models/test_docs.py -->")[1].lstrip()
    return [line for line in text.split("\n\n")[0].splitlines() if line.startswith("| `")]


def result(spec, *sizes):
    """mAP / Rank-1 on Market-1501 and on MSMT17 after fine-tuning with labels, at the first of `sizes` there is."""
    by_size = {r.img_size: r for r in reversed(spec.results) if r.method == "transreid"}
    r = next((by_size[size] for size in sizes if size in by_size), None)
    if r is None:
        return "- | -"
    mark = "" if r.img_size == sizes[0] else " *"
    return f"{r.market_map} / {r.market_r1}{mark} | {r.msmt_map} / {r.msmt_r1}{mark}"


def test_zoo_table():
    assert table("zoo") == [
        f"| `{s.name}` | {s.embed_dim} | {s.params_m:.2f} | {s.flops_g:.2f} "
        f"| {result(s, (256, 128))} | `{s.official_stem}.pth` |"
        for s in map(reidzoo.model_info, reidzoo.list_models(tag="reidzoo"))
    ]


def test_table_of_the_other_releases():
    specs = [s for s in map(reidzoo.model_info, reidzoo.list_models()) if s.release != "reidzoo"]
    assert table("released") == [
        f"| `{s.name}` | {s.embed_dim} | {s.params_m:.2f} | {result(s, (256, 128), (384, 128))} "
        f"| {f'`{s.official_stem}.pth`' if s.official_stem else '-'} |"
        for s in specs
    ]


@pytest.mark.parametrize("name", reidzoo.list_models())
def test_every_name_is_in_the_documentation(name):
    assert f"`{name}`" in TEXT
