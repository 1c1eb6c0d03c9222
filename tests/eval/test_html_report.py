"""The report as a reader gets it: its text, its pictures, and how a real browser shows it."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

import reidzoo
from reidzoo.data.records import Records, ReIDDataset
from reidzoo.errors import ConfigError, DataError
from reidzoo.eval import ranking
from reidzoo.eval.html_report import write_report

PICTURES = {"cmc", "precision_recall", "scores", "cameras", "projection", "heatmaps"}
PICTURES |= {f"ranking_{group}" for group in ("best", "median", "worst", "random")}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Collects images, texts and unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(given)
        if given.get("class", "").split()[:1] == ["row"]:
            self.rows.append([])
        if tag == "figure" and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "figcaption" in self.open:
            self.rows[-1][-1] += data + " "


def picture(image):
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", image["src"]).groups()
    with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
        assert opened.format == kind.upper()
        opened.load()
        return opened


@pytest.fixture
def evaluated(dataset, model):
    """A data set with junk, its features and their metrics."""
    gallery = dataset.gallery
    pid = np.where(np.arange(len(gallery)) % 9 == 0, -1, gallery.pid)
    data = ReIDDataset(
        "crops", dataset.root, dataset.train, dataset.query, Records(gallery.path, pid, gallery.camid)
    )  # fmt: skip
    q, g = (reidzoo.extract_features(model, r, num_workers=0) for r in (data.query, data.gallery))
    noise = np.random.default_rng(0)
    q, g = (f + noise.normal(0, 0.4, f.shape).astype(np.float32) for f in (q, g))
    ids, cams = (data.query.pid, data.gallery.pid), (data.query.camid, data.gallery.camid)
    return data, q, g, reidzoo.compute_metrics(q, g, *ids, *cams)


def test_page_and_pictures(evaluated, model, tmp_path):
    data, q, g, result = evaluated
    path = write_report(tmp_path / "r", data, q, g, result, model=model, title="A <b> & c", examples=2, top=5)
    assert path == tmp_path / "r" / "index.html"
    assert {p.name for p in path.parent.iterdir()} == {"index.html", *(f"{name}.png" for name in PICTURES)}
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "A <b> & c" in page.text
    assert "<b>" not in text
    assert f"{100 * result.mAP:.1f}\xa0%" in page.text
    assert f"{100 * result.cmc[1]:.1f}\xa0%" in page.text
    # nothing is fetched: every image is in the page, and there is no other address
    for image in page.images:
        opened = picture(image)
        assert image["alt"]
        ratio = opened.width / opened.height * int(image["height"]) / int(image["width"])
        assert ratio == pytest.approx(1, abs=0.01)
    assert not re.search(r"(src|href)=\"?(?!\"?data:)|https?:|url\(|<script", text)


def test_lists_are_those_of_the_queries_they_are_named_for(evaluated, tmp_path):
    data, q, g, result = evaluated
    text = write_report(tmp_path, data, q, g, result, examples=3, top=5).read_text(encoding="utf-8")
    page = Page(text)
    rows = [row for row in page.rows if row]
    assert len(rows) == 4 * 3
    shown = [float(re.search(r"AP ([\d.]+) %", row[0])[1]) for row in rows]
    ap = np.sort(np.round(100 * result.per_query_ap, 1))
    assert shown[:3] == ap[::-1][:3].tolist()
    assert shown[6:9] == ap[:3].tolist()
    assert ap[6 - 2] <= min(shown[3:6])
    assert max(shown[3:6]) <= ap[8 + 2]
    unit_q, unit_g = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (q, g))
    assert any("ignored" in cell for row in rows for cell in row)
    for row in rows:
        query = int(np.abs(100 * result.per_query_ap - float(re.search(r"AP ([\d.]+)", row[0])[1])).argmin())
        nearest = np.sort(1 - unit_g @ unit_q[query])
        distances = [float(re.search(r"(\d\.\d+) $", cell)[1]) for cell in row[1:]]
        if row[0].startswith(f"id {data.query.pid[query]}  cam {data.query.camid[query]}"):
            np.testing.assert_allclose(distances, nearest[: len(distances)], atol=6e-4)
        own = re.match(r"id (\d+)", row[0])[1]
        for cell in row[1:]:
            assert ("✓" in cell) == (f"id {own} " in cell and "ignored" not in cell)
        places = [int(n) for cell in row for n in re.findall(r"#(\d+)", cell)]
        assert places == list(range(1, len(places) + 1))
        assert len(places) <= 5
    for colour in (ranking._RIGHT, ranking._WRONG, ranking._IGNORED):
        assert f"border-color:{colour}" in text
    with Image.open(tmp_path / "ranking_worst.png") as opened:
        assert (np.asarray(opened) == ImageColor.getrgb(ranking._WRONG)).all(axis=2).sum() > 1000


def test_same_input_same_files(evaluated, model, tmp_path):
    data, q, g, result = evaluated
    for folder in ("a", "b"):
        write_report(tmp_path / folder, data, q, g, result, model=model, examples=1)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_sparse_data_sets(crops, metric, tmp_path):
    """No cameras, one identity, a single query, fewer images than a list is long."""
    query = Records.from_columns(crops.path[:1], [1], [-1])
    gallery = Records.from_columns(crops.path[8:10], [1, 1], [-1, -1])
    data = ReIDDataset("tiny", tmp_path, Records.empty(), query, gallery)
    q, g = np.array([[1.0, 0]]), np.array([[1.0, 0.1], [1, 0.2]])
    result = reidzoo.compute_metrics(q, g, [1], [1, 1], metric=metric)
    path = write_report(tmp_path / "r", data, q, g, result, metric=metric)
    page = Page(path.read_text(encoding="utf-8"))
    assert "camera to camera" not in page.text
    assert not (path.parent / "cameras.png").exists()
    assert "100.0\xa0%" in page.text
    assert "nan" not in page.text.lower()


def test_queries_without_a_match_are_told_and_not_drawn(evaluated, tmp_path):
    data, q, g, _ = evaluated
    query = Records(data.query.path, np.where(np.arange(16) < 13, 99, data.query.pid), data.query.camid)
    data = ReIDDataset("some", tmp_path, data.train, query, data.gallery)
    result = reidzoo.compute_metrics(q, g, query.pid, data.gallery.pid, query.camid, data.gallery.camid)
    page = Page(write_report(tmp_path / "r", data, q, g, result).read_text(encoding="utf-8"))
    assert "13 queries have no true match" in page.text
    assert "id 99" not in page.text
    assert len([row for row in page.rows if row]) == 4 * 3


def test_errors(evaluated, tmp_path):
    data, q, g, result = evaluated
    with pytest.raises(DataError, match="15 query features, but crops has 16"):
        write_report(tmp_path, data, q[1:], g, result)
    with pytest.raises(DataError, match="47 gallery features"):
        write_report(tmp_path, data, q, g[1:], result)
    with pytest.raises(ConfigError, match="top is 0"):
        write_report(tmp_path, data, q, g, result, top=0)
    with pytest.raises(ConfigError, match="far=3"):
        write_report(tmp_path, data, q, g, result, far=3)
    assert list(tmp_path.glob("index.html")) == []


HARNESS = """<!doctype html><link rel=icon href="data:,"><body>
<iframe src="{page}" style="width:390px;height:800px;border:0"></iframe><script>onload = () => {{
  const page = document.querySelector("iframe").contentDocument, images = [...page.images];
  const broken = images.filter(i => !i.complete || i.naturalWidth === 0 || i.getBoundingClientRect().width < 20).length;
  const small = [...page.querySelectorAll("p,td,figcaption")].filter(
    e => parseFloat(getComputedStyle(e).fontSize) < 11.5).length;
  document.body.innerText = `images=${{images.length}} broken=${{broken}} small=${{small}} ` +
    `over=${{page.documentElement.scrollWidth - page.documentElement.clientWidth}}`;
}}</script>"""


def browse(page: Path, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Open a page in a frame as wide as a phone; return what the harness counts, and the console's lines."""
    harness = page.with_name("harness.html")
    harness.write_text(HARNESS.format(page=page.name), encoding="utf-8")
    done = subprocess.run(
        [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=10000",
         f"--user-data-dir={folder}", "--dump-dom", harness.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    counted = {name: int(n) for name, n in re.findall(r"(images|broken|small|over)=(\d+)", done.stdout)}
    return counted, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_in_a_browser_on_a_phone(evaluated, model, tmp_path):
    data, q, g, result = evaluated
    path = write_report(tmp_path / "r", data, q, g, result, model=model)
    counted, console = browse(path, tmp_path / "profile")
    drawn = len(Page(path.read_text(encoding="utf-8")).images)
    assert counted == {"images": drawn, "broken": 0, "small": 0, "over": 0}
    assert console == []
    # and what is wrong would be seen
    path.write_text(
        '<img src="gone.png"><div style="width:500px">x</div><p style="font-size:8px">x</p><script>oops()</script>'
    )
    counted, console = browse(path, tmp_path / "profile")
    assert counted.pop("over") > 100
    assert counted == {"images": 1, "broken": 1, "small": 1}
    assert any("oops" in line for line in console)
