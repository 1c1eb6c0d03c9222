"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Align columns under their header: numbers to the right, words to the left, None as a dash.

    Args:
        header: column names.
        rows: cells; floats are shown with the digits that `format` gives them, so round or format them before.
    """
    body = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    columns = list(zip(header, *body, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [any(map(_is_number, cells)) for _, *cells in columns]
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in [list(header), ["-" * w for w in widths], *body]
    ]
    return "\n".join(lines)


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Align ``name  value`` lines."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or (cell[:1] in "+-." and cell[1:2].isdigit())
