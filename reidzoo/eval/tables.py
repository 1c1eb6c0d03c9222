"""Results of several models and data sets as one table, beside what was published."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from reidzoo.data import ReIDDataset
from reidzoo.errors import UnknownModelError
from reidzoo.eval._inputs import check_choice
from reidzoo.eval.report import EvalResult
from reidzoo.models import PublishedResult, model_info

Style = Literal["text", "markdown", "csv"]

_COLUMNS = {"market1501": "market", "msmt17": "msmt"}  # data sets with published figures, and how those are called


@dataclass(frozen=True)
class Published:
    """The published figures of a backbone on a data set, as fractions.

    Attributes:
        mAP: Mean average precision.
        rank1: Rank-1.
        how: How the backbone was fine-tuned for them.
    """

    mAP: float  # noqa: N815 - the field's own name
    rank1: float
    how: str


@dataclass(frozen=True)
class Row:
    """One model on one data set.

    Attributes:
        model: Its name.
        data: Its name.
        result: What was measured.
        published: What was published, where it is known.
    """

    model: str
    data: str
    result: EvalResult
    published: Published | None = None


def published_result(model: nn.Module, dataset: ReIDDataset) -> Published | None:
    """Look up the published figures of `model`, fine-tuned with labels on `dataset`.

    Args:
        model: Of `create_model`. After fine-tuning with a recipe its figures are those that the recipe aims at. Else
            they are the backbone's: with an MGN head those of MGN, otherwise those of TransReID's recipe.
        dataset: Drawn people in the layout of a real data set have none.
    """
    if dataset.is_drawn:
        return None
    aim = getattr(getattr(model, "backbone", model), "published", None) or {}
    if aim.get("data") == dataset.name:
        return Published(aim["mAP"], aim["rank1"], f"fine-tuned on it ({aim['how']})")
    column = _COLUMNS.get(dataset.name)
    if column is None:
        return None
    try:
        results = model_info(getattr(model, "reidzoo_name", "")).results
    except UnknownModelError:
        return None
    method = "mgn" if getattr(getattr(model, "head", None), "name", "") == "mgn" else "transreid"
    return next((_as_published(r, column) for r in results if r.method == method), None)


def _as_published(result: PublishedResult, column: str) -> Published:
    height, width = result.img_size
    how = f"fine-tuned on it ({result.method}, {height}x{width})"
    return Published(getattr(result, f"{column}_map") / 100, getattr(result, f"{column}_r1") / 100, how)


def results_table(rows: Sequence[Row], style: Style = "text") -> str:
    """Lay out results, one line each: in percent, or as fractions in CSV.

    Args:
        rows: At least one.
        style: ``"text"`` aligned, ``"markdown"``, or ``"csv"``.

    Returns:
        Model, data, mAP, Rank-1, Rank-5, Rank-10 (as far as the curves go), mINP, and the published mAP and Rank-1
        where there are any. Queries without a true match are counted in a line below, in CSV in a column.
    """
    check_choice("style", style, ("text", "markdown", "csv"))
    ranks = [k for k in (1, 5, 10) if all(k < len(row.result.cmc) for row in rows)]
    with_published = any(row.published for row in rows)
    header = ["model", "data", "mAP", *(f"Rank-{k}" for k in ranks), "mINP"]
    header += ["published mAP", "published Rank-1"] if with_published else []
    body = []
    for row in rows:
        r, p = row.result, row.published
        values: list[float | None] = [r.mAP, *(float(r.cmc[k]) for k in ranks), r.mINP]
        if with_published:
            values += [p.mAP, p.rank1] if p else [None, None]
        body.append([row.model, row.data, *(_number(v, style) for v in values)])
    if style == "csv":
        return _csv(header, body, rows)
    table = _markdown(header, body) if style == "markdown" else _aligned(header, body)
    return "\n".join([table, *_notes(rows, style)])


def _number(value: float | None, style: Style) -> str:
    if value is None:
        return "" if style == "csv" else "-"
    return f"{value:.6f}" if style == "csv" else f"{100 * value:.1f}"


def _notes(rows: Sequence[Row], style: Style) -> list[str]:
    said = dict.fromkeys(row.published.how for row in rows if row.published)
    notes = [f"published: the backbone {how}" for how in said]
    for row in rows:
        missing = row.result.num_queries - row.result.num_valid
        if missing:
            notes.append(
                f"{row.model}, {row.data}: {missing} of {row.result.num_queries} queries have no true match and are "
                "left out of the means"
            )
    return [f"\n{note}" for note in notes] if style == "markdown" else notes


def _csv(header: list[str], body: list[list[str]], rows: Sequence[Row]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*header, "queries", "valid queries", "published how"])
    for cells, row in zip(body, rows, strict=True):
        how = row.published.how if row.published else ""
        table.writerow([*cells, row.result.num_queries, row.result.num_valid, how])
    return text.getvalue().rstrip("\n")


def _markdown(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)], *body]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _aligned(header: list[str], body: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in (header, *body)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
