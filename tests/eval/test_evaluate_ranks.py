"""Two ranks find what one finds: the same features, the same metrics, the same files; and errors reach both."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from reidzoo.data import load_dataset, write_synthetic
from reidzoo.eval import evaluate, extract_features
from reidzoo.models import create_model
from reidzoo.weights import save_model

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

SCRIPT = """
import json, os, sys
import numpy as np
import reidzoo
from reidzoo.cli.main import main
from reidzoo.errors import DataError
from reidzoo.eval import _embed, cross_evaluate, extract_features

folder, people, out = sys.argv[1:]
rank, seen = int(os.environ["RANK"]), []
forward = _embed._forward
_embed._forward = lambda model, batch: (seen.append(len(batch)), forward(model, batch))[1]
how = {"num_workers": 0, "batch_size": 6, "device": "cpu", "flip": False}

model = reidzoo.create_model(f"local-dir:{folder}")
data = reidzoo.load_dataset(people)
result = reidzoo.evaluate(model, data, **how)
shared = sum(seen)
gallery = extract_features(model, data.gallery, **how)
one_image = extract_features(model, data.query.select([0]), **how)  # one rank has nothing to do
kept = extract_features(model, data.gallery, out=f"{out}/gallery.npy", **how)
(pair,) = cross_evaluate({"m": model}, [people], **how)
seen.clear()
alone = extract_features(model, data.query, distributed=False, **how)
try:
    broken = list(data.query.path)
    broken[-1] = f"{out}/gone.png"  # in the share of the last rank
    extract_features(model, broken, **how)
except DataError as e:
    error = str(e)
np.savez(f"{out}/rank{rank}.npz", gallery=gallery, one=one_image, kept=kept, ap=result.per_query_ap,
         cross=pair.result.per_query_ap, alone=alone, shared=shared, total=sum(seen), error=error)
sys.exit(main(["evaluate", folder, people, "--num-workers", "0", "--batch-size", "6", "--device", "cpu", "--no-flip",
               "--output-dir", f"{out}/command", "--json"]))
"""


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks") / "people"
    return write_synthetic(folder, identities=10, cameras=3, videos=1, tracklets=1, images=2, size=(64, 32))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch

    torch.manual_seed(0)
    model = create_model("timm/test_resnet", img_size=(64, 32))
    save_model(model, tmp_path_factory.mktemp("ranks") / "model.safetensors")
    return model


def test_two_ranks_are_one(people, model, tmp_path, warm_python):
    save_model(model, tmp_path / "model" / "model.safetensors")
    (tmp_path / "job.py").write_text(SCRIPT)
    words = [str(tmp_path / name) for name in ("job.py", "model")] + [f"synthetic:{people}", str(tmp_path)]
    done = subprocess.run([warm_python, *TORCHRUN, *words], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ranks = [np.load(tmp_path / f"rank{rank}.npz") for rank in (0, 1)]

    data = load_dataset(f"synthetic:{people}")
    how = {"num_workers": 0, "batch_size": 6, "device": "cpu", "flip": False}
    gallery = extract_features(model, data.gallery, **how)
    ap = evaluate(model, data, **how).per_query_ap
    for found in ranks:
        np.testing.assert_array_equal(found["gallery"], gallery)  # the batches are the same ones
        np.testing.assert_array_equal(found["kept"], gallery)
        np.testing.assert_array_equal(found["one"], extract_features(model, data.query.select([0]), **how))
        np.testing.assert_array_equal(found["ap"], ap)
        np.testing.assert_array_equal(found["cross"], ap)
        assert "gone.png" in str(found["error"])
        assert found["total"] >= len(data.query), "distributed=False: each for itself"
    assert sum(int(found["shared"]) for found in ranks) == len(data.query) + len(data.gallery)
    assert min(int(found["shared"]) for found in ranks) > 0
    assert json.loads((tmp_path / "gallery.json").read_text())["images"] == len(data.gallery)

    printed = json.loads(done.stdout)  # the command speaks on one rank
    assert printed["mAP"] == pytest.approx(float(np.nanmean(ap)))
    names = {"metrics.json", "ranking.png", "results.csv", "results.md"}
    assert {p.name for p in (tmp_path / "command").iterdir()} == names
