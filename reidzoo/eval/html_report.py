"""The report of an evaluation: one HTML page that needs nothing else, and its pictures as PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from reidzoo._files import atomic
from reidzoo.data.records import NO_CAMERA, Records, ReIDDataset
from reidzoo.errors import ConfigError, DataError
from reidzoo.eval._html import chart, figure, page, text
from reidzoo.eval._images import ImageTransform
from reidzoo.eval.cameras import camera_pairs
from reidzoo.eval.chart import line_chart
from reidzoo.eval.chart_grid import matrix_chart, scatter_chart
from reidzoo.eval.heatmap import draw_heat_maps, heat_maps, overlay
from reidzoo.eval.metrics import Metric
from reidzoo.eval.projection import project
from reidzoo.eval.protocols import PROTOCOLS
from reidzoo.eval.ranking import Hit, colour_of, draw_ranking, identity, ranking_lists, short, thumbnail
from reidzoo.eval.report import EvalResult
from reidzoo.eval.search import search

_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of false accepts, in the table of thresholds
_IDENTITIES, _IMAGES = 12, 30  # of the projection: how many, and of each at most
_HEAT = (144, 288)

Features = NDArray[Any]


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """What the sections of a report are made of."""

    folder: Path
    query: Records
    gallery: Records
    query_features: Features
    gallery_features: Features
    result: EvalResult
    metric: Metric
    top: int
    seed: int

    @property
    def same_camera(self) -> bool:
        """Whether the rules of the result let images of the query's camera count."""
        return self.result.protocol in PROTOCOLS and PROTOCOLS[self.result.protocol].same_camera

    def nearest(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Search twice as deep as is shown, for the images that do not count."""
        return search(self.query_features[rows], self.gallery_features, 2 * self.top, metric=self.metric)


def write_report(
    directory: str | Path,
    dataset: ReIDDataset,
    query_features: Features,
    gallery_features: Features,
    result: EvalResult,
    *,
    model: nn.Module | None = None,
    metric: Metric = "cosine",
    title: str = "",
    examples: int = 4,
    top: int = 10,
    far: float = 1e-3,
    seed: int = 0,
    img_size: int | tuple[int, int] | None = None,
    transform: ImageTransform | None = None,
) -> Path:
    """Write ``index.html``, a page to be read in any browser without a network, and its pictures as PNG files.

    The page shows the numbers; ranking lists of the best, median, worst and some random queries; CMC and
    precision-recall curves; the distances of same and different persons with a threshold; mAP from camera to camera;
    some identities in the plane; and heat maps if there is a model. The same input gives the same files.

    Args:
        directory: Folder to write to; made if it is missing.
        dataset: Its query and gallery.
        query_features: (Q, D) as of `extract_features`.
        gallery_features: (G, D).
        result: Of these features, from `compute_metrics` or `evaluate`.
        model: What the features are from, for the heat maps; None: none.
        metric: ``"cosine"`` or ``"euclidean"``, as for `result`.
        title: Heading; empty: the data set's name.
        examples: Queries in each group of ranking lists.
        top: Gallery images that count in each list.
        far: False-accept rate of the threshold that is drawn.
        seed: Of the random queries and the projected identities.
        img_size: As in `extract_features`, for the heat maps.
        transform: As in `extract_features`, for the heat maps.

    Returns:
        The path of ``index.html``.

    Raises:
        DataError: The features or the result are not those of the data set.
        ConfigError: `examples`, `top` or `far` is out of range.
        CorruptImageError: An image cannot be decoded.
    """
    if examples < 1 or top < 1:
        raise ConfigError(f"examples is {examples} and top is {top}; both must be at least 1.")
    query, gallery = dataset.query, dataset.gallery
    for what, found, wanted in (
        ("query features", len(query_features), len(query)),
        ("gallery features", len(gallery_features), len(gallery)),
        ("average precisions in the result", len(result.per_query_ap), len(query)),
    ):
        if found != wanted:
            raise DataError(f"There are {found} {what}, but {dataset.name} has {wanted} such images.")
    e = _Evaluation(
        Path(directory), query, gallery, query_features, gallery_features, result, metric, top, seed
    )  # fmt: skip
    heading = title or f"Evaluation on {dataset.name}"
    groups = _groups(result.per_query_ap, examples, seed)
    scores = _scores(e, far)
    sections = [
        _summary(e, heading, dataset),
        _quality(e),
        scores,
        _rankings(e, groups),
        _cameras(e),
        _plane(e),
    ]
    if model is not None:
        sections.append(_heat(e, model, groups, img_size, transform))
    path = e.folder / "index.html"
    with atomic(path) as temporary:
        temporary.write_text(page(heading, sections), encoding="utf-8")
    return path


def _groups(ap: NDArray[np.float64], n: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Choose the queries whose ranking lists are shown, by their average precision."""
    valid = np.flatnonzero(np.isfinite(ap))
    falling = valid[np.argsort(-ap[valid], kind="stable")]
    n = min(n, len(valid))
    middle = (len(valid) - n) // 2
    drawn = np.random.default_rng(seed).choice(valid, n, replace=False)
    return {"best": falling[:n], "median": falling[middle : middle + n], "worst": falling[::-1][:n], "random": drawn}


def _summary(e: _Evaluation, heading: str, dataset: ReIDDataset) -> str:
    r = e.result
    numbers = {"mAP": r.mAP, **{f"Rank-{k}": r.cmc[k] for k in (1, 5, 10) if k < len(r.cmc)}, "mINP": r.mINP}
    cells = "".join(f"<div><dt>{name}</dt><dd>{100 * value:.1f}&nbsp;%</dd></div>" for name, value in numbers.items())
    missing = r.num_queries - r.num_valid
    several = " Lists show what the single query image finds." if r.protocol.startswith("multi") else ""
    left_out = f" {missing:,} queries have no true match and are left out of all means." if missing else ""
    return (
        f"<h1>{text(heading)}</h1>\n<p class=soft>{text(dataset.name)}: {len(e.query):,} queries of "
        f"{e.query.num_pids:,} identities, {len(e.gallery):,} gallery images. Distance: {e.metric}. Average precision: "
        f"{text(r.convention)}. Protocol: {text(r.protocol)}.{several}{left_out}</p>\n<dl class=numbers>{cells}</dl>"
    )


def _rankings(e: _Evaluation, groups: Mapping[str, NDArray[np.int64]]) -> str:
    parts = [
        "<h2>Ranking lists</h2>",
        f"<p>The query, then the {e.top} nearest gallery images that count: right in green (✓), wrong in red (✗). "
        "Grey images do not count: junk, or the query's own identity under its own camera. Lists wider than the page "
        "scroll.</p>",
    ]
    for name, rows in groups.items():
        distances, indices = e.nearest(rows)
        query, ap = e.query.select(rows), e.result.per_query_ap[rows]
        draw_ranking(
            query, e.gallery, distances, indices, e.folder / f"ranking_{name}.png",
            top=e.top, junk=True, same_camera=e.same_camera, ap=ap, title=f"{name.capitalize()} queries",
        )  # fmt: skip
        parts.append(f"<h3>{name.capitalize()} queries</h3>")
        lists = ranking_lists(
            query, e.gallery, distances, indices, top=e.top, junk=True, same_camera=e.same_camera
        )  # fmt: skip
        for q, hits in enumerate(lists):
            caption = f"{identity(query, q)}\nAP {100 * ap[q]:.1f} %"
            cells = [figure(thumbnail(query.path[q]), caption, "query", "#333333")]
            cells += [_hit(e.gallery, hit) for hit in hits]
            parts.append(f"<div class=row tabindex=0>{''.join(cells)}</div>")
    return "\n".join(parts)


def _hit(gallery: Records, hit: Hit) -> str:
    place = f"#{hit.rank} {'✓' if hit.right else '✗'}" if hit.rank else "ignored"
    image = thumbnail(gallery.path[hit.row], greyed=hit.rank == 0)
    return figure(image, f"{identity(gallery, hit.row)}\n{place} {short(hit.distance)}", "hit", colour_of(hit))


def _quality(e: _Evaluation) -> str:
    cmc, precision = e.result.cmc, e.result.precision
    one = line_chart(
        [{"series": {"CMC": (range(1, len(cmc)), (100 * cmc[1:]).tolist())}, "ylabel": "found, %"}],
        e.folder / "cmc.png", xlabel="rank",
    )  # fmt: skip
    said, charts = "CMC: share of queries with a true match among the first results.", chart(one, "CMC curve")
    if precision is not None:
        two = line_chart(
            [{"series": {"": (range(101), (100 * precision).tolist())}, "ylabel": "precision, %", "ylim": (0, 100)}],
            e.folder / "precision_recall.png", xlabel="recall, %",
        )  # fmt: skip
        charts += chart(two, "Precision-recall curve")
        said += (
            " Precision and recall: how pure the ranking still is when that share of the true matches has been found "
            "(interpolated, mean of the queries)."
        )
    return f"<h2>How much is found</h2>\n<p>{said}</p>\n<div class=charts>{charts}</div>"


def _scores(e: _Evaluation, far: float) -> str:
    """Show the distances of genuine and impostor pairs, and what thresholds do to them."""
    scores = e.result.scores
    if scores is None or len(scores.impostor) == 0:
        return ""
    cut = scores.threshold(far)
    ends = [float(x) for side in (scores.genuine, scores.impostor) for x in (side.min(), side.max())]
    low, high = min(ends), max(ends)
    low = 0.0 if 0 < low < high / 20 else low
    series = {"same": _density(scores.genuine, low, high), "different": _density(scores.impostor, low, high)}
    path = line_chart(
        [{"series": series, "ylabel": "density", "marks": {f"{cut.distance:.3g}": cut.distance}, "fill": True}],
        e.folder / "scores.png", xlabel=f"{e.metric} distance",
    )  # fmt: skip
    rates = [rate for rate in sorted({*_RATES, far}, reverse=True) if rate * len(scores.impostor) >= 1]
    rows = "".join(
        f"<tr><td>{rate:g}</td><td>{t.distance:.4g}</td><td>{100 * t.far:.3g}&nbsp;%</td><td>{100 * t.frr:.1f}&nbsp;%"
        "</td></tr>"
        for rate, t in ((rate, scores.threshold(rate)) for rate in rates)
    )
    return (
        f"<h2>Same or different?</h2>\n<p>Distances of {len(scores.genuine):,} pairs of the same person and of "
        f"{scores.impostor_pairs:,} pairs of different persons. Called the same below a distance of {cut.distance:.4g} "
        f"(dashed), {100 * cut.far:.3g} % of the different pairs are accepted falsely and {100 * cut.frr:.1f} % of the "
        f"same pairs are missed.</p>\n<div class=charts>{chart(path, 'Distances of same and different persons')}"
        "<div class=scroll><table><tr><th>wanted FAR</th><th>threshold</th><th>false accepts</th><th>false rejects</th>"
        f"</tr>{rows}</table></div></div>"
    )


def _density(values: NDArray[np.float32], low: float, high: float) -> tuple[list[float], list[float]]:
    """Return points of a line over [low, high] with area 1: a histogram, finer where there are more values."""
    high = high if high > low else low + 1e-3
    density, edges = np.histogram(values, int(np.clip(2 * len(values) ** (1 / 3), 10, 80)), (low, high), density=True)
    middle = (edges[:-1] + edges[1:]) / 2
    return [edges[0], *middle.tolist(), edges[-1]], [density[0], *density.tolist(), density[-1]]


def _cameras(e: _Evaluation) -> str:
    if not (e.query.camid != NO_CAMERA).any() or e.gallery.num_cams < 2:
        return ""
    a, b, values = camera_pairs(
        e.query_features, e.gallery_features, e.query, e.gallery,
        metric=e.metric, ap=e.result.convention, same_camera=e.same_camera,  # type: ignore[arg-type]
    )  # fmt: skip
    path = matrix_chart(
        100 * values, [str(c) for c in a], [str(c) for c in b], e.folder / "cameras.png",
        xlabel="gallery camera", ylabel="query",
    )  # fmt: skip
    return (
        "<h2>From camera to camera</h2>\n<p>mAP in percent when the queries of one camera are searched in the images "
        "of one other camera alone: mostly higher than the mAP above, as the gallery is smaller. Low rows or columns "
        f"point to cameras with another light, height or distance.</p>\n{chart(path, 'mAP from camera to camera')}"
    )


def _plane(e: _Evaluation) -> str:
    """Project the queries and gallery images of some identities."""
    shared = np.intersect1d(e.query.pid, e.gallery.pid)
    rng = np.random.default_rng(e.seed)
    chosen = np.sort(rng.choice(shared, min(_IDENTITIES, len(shared)), replace=False))
    q = _some_of_each(e.query.pid, chosen, _IMAGES // 3)
    g = _some_of_each(e.gallery.pid, chosen, _IMAGES)
    features = np.concatenate([e.query_features[q], e.gallery_features[g]])
    labels = np.concatenate([e.query.pid[q], e.gallery.pid[g]])
    path = scatter_chart(
        project(features), labels, e.folder / "projection.png", ringed=np.arange(len(labels)) < len(q)
    )  # fmt: skip
    return (
        f"<h2>{len(chosen)} identities in the plane</h2>\n<p>Each point is an image, each colour an identity; queries "
        "have a dark ring. Images whose features are near each other lie near each other (t-SNE); sizes and distances "
        f"of the groups mean nothing.</p>\n{chart(path, 'Features of some identities in the plane')}"
    )


def _some_of_each(pid: NDArray[np.int64], chosen: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return np.concatenate([np.flatnonzero(pid == one)[:most] for one in chosen])


def _heat(
    e: _Evaluation,
    model: nn.Module,
    groups: Mapping[str, NDArray[np.int64]],
    img_size: int | tuple[int, int] | None,
    transform: ImageTransform | None,
) -> str:
    """Show queries of two groups and their first results, each with what makes it like the other."""
    rows = np.concatenate([groups["best"], groups["worst"]])
    query = e.query.select(rows)
    distances, indices = e.nearest(rows)
    lists = ranking_lists(query, e.gallery, distances, indices, top=1, same_camera=e.same_camera)
    pairs = [(q, hits[0]) for q, hits in enumerate(lists) if hits]
    if not pairs:
        return ""
    found = np.array([hit.row for _, hit in pairs])
    asked = np.array([q for q, _ in pairs])
    paths = [path for q, hit in pairs for path in (query.path[q], e.gallery.path[hit.row])]
    other = np.stack([e.gallery_features[found], e.query_features[rows[asked]]], axis=1)
    reference = other.reshape(-1, other.shape[-1]).astype(np.float32)
    heat = heat_maps(model, paths, reference=reference, img_size=img_size, transform=transform)
    images = [thumbnail(path, _HEAT) for path in paths]
    path = draw_heat_maps(images, heat, e.folder / "heatmaps.png")
    parts = [
        "<h2>Where the network looks</h2>",
        "<p>Queries from the best and from the worst lists, each with its first result. Bright parts weigh most: in "
        "networks with a feature map, in what makes the two images alike (Grad-CAM); in vision transformers, in the "
        f"feature as a whole (attention roll-out). Also as {path.name}.</p>",
    ]
    for k, (q, hit) in enumerate(pairs):
        verdict = "right ✓" if hit.right else "wrong ✗"
        captions = f"query: {identity(query, q)}", f"{identity(e.gallery, hit.row)}, {verdict}"
        cells = [
            figure(_beside(images[i], overlay(images[i], heat[i])), caption, "pair", "#ffffff")
            for i, caption in zip((2 * k, 2 * k + 1), captions, strict=True)
        ]
        parts.append(f'<div class="row heat">{"".join(cells)}</div>')
    return "\n".join(parts)


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    picture = Image.new("RGB", (left.width + right.width, left.height))
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width, 0))
    return picture
