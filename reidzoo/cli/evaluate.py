"""`reidzoo evaluate`."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reidzoo._files import atomic
from reidzoo._logging import rank_from_env
from reidzoo.cli._model import add_inference_arguments, add_model_argument, inference_options, load_model
from reidzoo.data import list_datasets
from reidzoo.errors import ConfigError, DataError

if TYPE_CHECKING:
    from reidzoo.eval import EvalResult, Evaluation, Row

_ROWS, _TOP = 8, 10  # of the ranking picture
_FILES = (".npy", ".npz")
_PROTOCOLS = ("market", "no_camera", "multi_query", "multi_query_max", "cuhk03_classic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_model_argument(parser)
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="*",
        help="data sets with query and gallery images, like market1501:FOLDER; or, with features of the queries as "
        "MODEL, those of the gallery: query.npy gallery.npy",
    )
    parser.add_argument(
        "--cross", metavar="A:B", type=split_names, default=[], help="more data sets, by name: market1501:msmt17"
    )
    parser.add_argument(
        "--compare", metavar="MODEL", action="append", default=[], help="another model, on the same data (repeatable)"
    )
    parser.add_argument(
        "--metric", choices=("cosine", "euclidean"), default="cosine", help="distance (default: cosine)"
    )
    parser.add_argument(
        "--ap",
        choices=("rectangle", "trapezoid"),
        default="rectangle",
        help="area under precision and recall by rectangles, as in most code, or by trapezoids (default: rectangle)",
    )
    parser.add_argument("--protocol", choices=_PROTOCOLS, default="market", help="what counts (default: market)")
    parser.add_argument("--rerank", action="store_true", help="re-rank by k-reciprocal neighbours")
    add_inference_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--features-dir", metavar="DIR", type=Path, help="keep the features there, go on with, or use, what is there"
    )
    parser.add_argument(
        "--output-dir",
        metavar="DIR",
        type=Path,
        help="also write results.csv, results.md, and of each pair metrics.json and ranking.png",
    )
    parser.add_argument("--report", metavar="DIR", type=Path, help="write index.html with pictures of the result")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, and write the files that were asked for."""
    if args.model.endswith(_FILES):
        return _run_files(args)
    from reidzoo.eval import Row, cross_evaluate

    data = [*args.data, *args.cross]
    if not data:
        raise ConfigError("evaluate needs a data set: DATA, like market1501:FOLDER, or --cross market1501:msmt17")
    models: dict[str, Any] = {args.model: load_model(args, args.img_size)}
    for name in args.compare:
        other = argparse.Namespace(model=name, weights=None, pretrained=args.pretrained)
        models[name] = load_model(other, args.img_size)
    if args.report and args.rerank:
        raise ConfigError("--report draws what the features themselves find: leave out --rerank, or --report")
    single, rows = len(models) * len(data) == 1, list[Row]()
    for evaluation in cross_evaluate(
        models, data, features_dir=args.features_dir, **_rules(args), **inference_options(args)
    ):  # fmt: skip
        rows.append(evaluation.row)
        if rank_from_env() == 0:
            below = () if single else (evaluation.folder,)
            if args.output_dir:
                _write_pair(evaluation, args.output_dir.joinpath(*below), args)
            if args.report:
                _report(evaluation, args.report.joinpath(*below), args)
    if rank_from_env() == 0:
        _print(rows, args)
    return 0


def split_names(text: str) -> list[str]:
    """Read ``market1501:msmt17``: data sets joined by colons, each with its path if it has one."""
    names = "|".join(sorted(map(re.escape, list_datasets()), key=len, reverse=True))
    return re.split(rf":(?=(?:{names})(?:[@:+]|$))", text)


def _print(rows: list[Row], args: argparse.Namespace) -> None:
    from reidzoo.eval import results_table

    if args.output_dir:
        styles: dict[str, Any] = {"results.csv": "csv", "results.md": "markdown"}
        for name, style in styles.items():
            with atomic(args.output_dir / name) as temporary:
                temporary.write_text(results_table(rows, style) + "\n", encoding="utf-8")
    if args.json:
        named = [{"model": row.model, "data": row.data, **_as_json(row)} for row in rows]
        print(json.dumps(_as_json(rows[0]) if len(rows) == 1 else named, indent=2))
        return
    print(rows[0].result.table() if len(rows) == 1 and not rows[0].published else results_table(rows))
    if args.output_dir:
        pictures = "" if args.rerank else ", ranking.png"
        print(f"\nfolder  {args.output_dir}   (results.csv, results.md, metrics.json{pictures})")
    if args.report:
        where = args.report / "index.html" if len(rows) == 1 else f"{args.report}/*/index.html"
        print(f"{'' if args.output_dir else chr(10)}report  {where}")


def _as_json(row: Row) -> dict[str, Any]:
    known = row.published
    published = {"published": {"mAP": known.mAP, "Rank-1": known.rank1, "how": known.how}} if known else {}
    return {**row.result.to_dict(), **published}


def _write_pair(e: Evaluation, folder: Path, args: argparse.Namespace) -> None:
    """Write the metrics and, of the plain ranking, the lists of queries from all over the data set."""
    from reidzoo.eval import draw_ranking, search

    e.result.save(folder)
    if args.rerank:
        return
    rows = np.unique(np.linspace(0, len(e.data.query) - 1, _ROWS).round().astype(np.int64))
    query, gallery = e.data.query.select(rows), e.data.gallery
    # Neighbours that scoring ignores are not drawn: ask for enough to fill the row without them.
    ignored = max(int(np.sum((gallery.pid == pid) | (gallery.pid == -1))) for pid in query.pid)
    found = search(e.features.query[rows], e.features.gallery, k=_TOP + ignored, metric=args.metric)
    draw_ranking(query, gallery, *found, folder / "ranking.png", top=_TOP)


def _report(e: Evaluation, folder: Path, args: argparse.Namespace) -> None:
    from reidzoo.eval.html_report import write_report

    write_report(
        folder, e.data, e.features.query, e.features.gallery, e.result,
        model=e.model, metric=args.metric, title=f"{e.row.model} on {e.row.data}", img_size=args.img_size,
    )  # fmt: skip


def _run_files(args: argparse.Namespace) -> int:
    """Compute the metrics of two feature files."""
    files = [args.model, *args.data]
    if len(files) != 2 or not files[1].endswith(_FILES) or args.cross or args.compare:
        raise ConfigError("features are evaluated in pairs: reidzoo evaluate QUERY.npy GALLERY.npy")
    for flag in ("report", "features_dir", "weights", "pretrained"):
        if getattr(args, flag):
            raise ConfigError(f"--{flag.replace('_', '-')} needs a model and a data set, not feature files")
    result = _score_files(Path(files[0]), Path(files[1]), args)
    print(json.dumps(result.to_dict(), indent=2) if args.json else result.table())
    if args.output_dir:
        print(f"\nfile  {result.save(args.output_dir)}")
    return 0


def _score_files(query_file: Path, gallery_file: Path, args: argparse.Namespace) -> EvalResult:
    from reidzoo.eval import check_same_model, compute_metrics, load_features

    query, gallery = load_features(query_file), load_features(gallery_file)
    check_same_model(query, gallery)
    q, g = query.records, gallery.records
    if query_file.resolve() == gallery_file.resolve() and (q.camid == -1).any():
        raise DataError(
            f"{query_file} is query and gallery, and cameras are not known: every image would find itself. Give two "
            "files, such as those of --split query and --split gallery."
        )
    return compute_metrics(query.values, gallery.values, q.pid, g.pid, q.camid, g.camid, **_rules(args))


def _rules(args: argparse.Namespace) -> dict[str, Any]:
    """How results are counted, as `compute_metrics` takes it."""
    from reidzoo.eval import Rerank

    rerank = Rerank() if args.rerank else None
    return {"metric": args.metric, "ap": args.ap, "protocol": args.protocol, "rerank": rerank}
