"""Time and memory of data sets of the size of LUPerson-NL and CION-AL: generated lists, no images.

    python tests/benchmarks/bench_records.py                       # 10,000,000 and 3,900,000 images, about 6 GB of disk
    python tests/benchmarks/bench_records.py --images 100000 --folder /scratch

For each size a list in CION-AL's JSON format is written, with paths, videos, tracklets and frames as in LUPerson-NL.
Then, in a process each: the first loading (parsing the list into the index), the second (from the index), and
loader processes that go through random rows, for records from the index and for a copy of them in memory.

"peak" is what the process had in memory at once, above what it had before, with the parts of mapped files, which
processes share and the system may drop. "own" is what it wrote itself: nobody shares that. For loader processes it is
what they have more than with 1,000 images. Linux only. The folder is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from reidzoo.data import Records, load_dataset


def write_list(root: Path, images: int) -> None:
    """Write a list of `images` images, of which the first exists; 24 images per tracklet, 20 tracklets per video."""
    root.mkdir(parents=True)
    with (root / "cional_annos.json").open("w") as file:
        file.write("[")
        for i in range(images):
            tracklet = i // 24
            video = tracklet // 20
            path = (
                f"country{video % 70:02d}/city{video % 1400:04d}/{video:011d}/{tracklet:06d}_{i % 24 * 20:07d}_00.jpg"
            )
            entry = f'{{"id": {tracklet}, "file_path": "{path}", "video": {video}, "frame": {i % 24 * 20}}}'
            file.write(f"{',' if i else ''}\n{entry}")
            if i == 0:
                (root / path).parent.mkdir(parents=True)
                (root / path).write_bytes(b"")
        file.write("]\n")


def memory() -> dict[str, float]:
    """MB of this process: in memory, the most since the last reset, and written by it alone."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own = dirty = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            dirty = int(line.split()[1])
        elif line.startswith("Anonymous:"):  # pages of files that are still to be written count as dirty, too
            own += min(dirty, int(line.split()[1]))
    values = {"resident": status["VmRSS"].split()[0], "peak": status["VmHWM"].split()[0], "own": own}
    return {name: int(value) / 1024 for name, value in values.items()}


def load(root: Path) -> dict[str, float]:
    """Load the records and look at some."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = memory(), time.perf_counter()
    records = load_dataset(f"cion_al:{root}").train
    seconds = time.perf_counter() - start
    for i in np.random.default_rng(0).integers(len(records), size=1000).tolist():
        assert records.path[i].endswith(".jpg")
    after = memory()
    return {"seconds": seconds, "peak": after["peak"] - before["resident"], "own": after["own"] - before["own"]}


class Rows(Dataset[dict[str, float]]):
    """Each sample visits many random rows, as an epoch does, and says what the process then needs."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, float]:
        for i in np.random.default_rng(index).integers(len(self.records), size=50_000).tolist():
            assert self.records.path[i].endswith(".jpg")
            assert self.records.pid[i] >= 0
        return memory()


def work(root: Path, start: str, copy: bool) -> dict[str, float]:
    """Go through random rows in two loader processes; return the larger numbers."""
    records = load_dataset(f"cion_al:{root}").train
    if copy:
        records = records.select(np.arange(len(records)))
    loader = DataLoader(Rows(records), batch_size=None, num_workers=2, multiprocessing_context=start)
    samples = list(loader)
    return {name: max(sample[name] for sample in samples) for name in samples[0]}


def step(what: str, root: Path, *args: str) -> dict[str, float]:
    """Do one step in a new process."""
    command = [sys.executable, __file__, "--step", what, "--folder", str(root), "--args", *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def bench(folder: Path, images: int, small: Path) -> None:
    """Measure one size."""
    root = folder / f"{images}"
    start = time.perf_counter()
    write_list(root, images)
    size = (root / "cional_annos.json").stat().st_size
    print(f"\n{images:,} images, list of {size / 1e6:,.0f} MB, written in {time.perf_counter() - start:.0f} s")
    row = "{:34}{:>10}{:>12}{:>12}"
    print(row.format("", "s", "peak (MB)", "own (MB)"))
    for name in ("first loading (parses)", "loading from the index"):
        r = step("load", root)
        print(row.format(name, f"{r['seconds']:.2f}", f"{r['peak']:.0f}", f"{r['own']:.0f}"), flush=True)
    for method in ("fork", "spawn"):
        for copy in ("index", "copy"):
            large, none = step("work", root, method, copy), step("work", small, method, copy)
            added = {name: f"{large[name] - none[name]:.0f}" for name in large}
            name = f"{method}ed loader process, {'from the index' if copy == 'index' else 'from memory'}"
            print(row.format(name, "", added["peak"], added["own"]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000_000, 3_900_000])
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--step", choices=("load", "work"), help=argparse.SUPPRESS)
    parser.add_argument("--args", nargs="*", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        rest: Any = (args.args[0], args.args[1] == "copy") if args.args else ()
        print(json.dumps((load if args.step == "load" else work)(args.folder, *rest)))
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-records-", dir=args.folder))
    os.environ["REIDZOO_HOME"] = str(folder / "home")
    try:
        write_list(folder / "small", 1000)
        step("load", folder / "small")
        for images in args.images:
            bench(folder, images, folder / "small")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
