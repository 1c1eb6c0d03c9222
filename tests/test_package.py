"""The package as a whole: its names, its version, and what importing it costs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import reidzoo

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "timm", "faiss", "PIL", "sklearn", "matplotlib", "huggingface_hub", "scipy")


def heavy_after(code: str, python: str = sys.executable) -> set[str]:
    """Which heavy packages a fresh interpreter has imported after `code`."""
    program = f"import sys\n{code}\nprint('HEAVY', *(m for m in {HEAVY!r} if m in sys.modules))"
    out = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout
    return set(out.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "code",
    [
        "import reidzoo",
        "import reidzoo; assert len(reidzoo.list_models(tag='reidzoo')) == 32; reidzoo.model_info('resnet50_ibn')",
        "import reidzoo; reidzoo.ReidzooError",
        "import reidzoo.training.methods, reidzoo.training.configs",
        "from reidzoo.cli.main import main; assert main(['models']) == 0",
        "from reidzoo.cli.main import main; assert main(['info', 'vit_tiny']) == 0",
        "from reidzoo.cli.main import main; assert main(['--help']) == 0",
        "from reidzoo.cli.main import main; assert main(['pretrain', '--help']) == 0",
        "from reidzoo.cli.main import main; assert main(['finetune', '--help']) == 0",
    ],
)
def test_cheap_things_import_nothing_heavy(code):
    assert heavy_after(code) == set()


SEEN = """
import atexit, json, os, signal, sys
atexit.register(print, "bye")
print(json.dumps([sys.argv, os.getcwd(), sys.path[0], __name__, dict(os.environ), sys.stdin.read()]), flush=True)
sys.exit("no") if sys.argv[1] == "words" else os.kill(os.getpid(), 9) if sys.argv[1] == "killed" else 1 / 0
"""


@pytest.mark.parametrize("end", ["words", "killed", "error"])
@pytest.mark.parametrize("how", ["-c", "file", "-m"])
def test_warm_python_is_a_python(how, end, warm_python, tmp_path):
    """Arguments, folder, environment, streams and the end of a program: those of an interpreter of its own."""
    (tmp_path / "seen.py").write_text(SEEN)
    words = {"-c": ["-c", SEEN], "file": ["seen.py"], "-m": ["-m", "seen"]}[how]
    found = []
    for python in (sys.executable, warm_python):
        env = {"HERE": "1", "PATH": os.environ["PATH"], "PYTHON_EXEC": warm_python, "PWD": str(tmp_path)}
        done = subprocess.run([python, *words, end], capture_output=True, text=True, cwd=tmp_path, input="in", env=env)
        seen = [json.loads(line) for line in done.stdout.splitlines()[:1]]
        found.append((seen, done.stdout.splitlines()[1:], done.stderr.splitlines()[-1:], done.returncode))
    assert found[0] == found[1]
    assert heavy_after("", warm_python) <= {"torch", "torchvision", "PIL"}


def test_public_names_resolve_to_what_the_type_checker_is_told():
    for name in reidzoo.__all__:
        assert getattr(reidzoo, name) is not None
    assert set(reidzoo.__all__) <= set(dir(reidzoo))
    source = Path(reidzoo.__file__).read_text()
    told = set(re.findall(r"\w+", " ".join(re.findall(r"^    from reidzoo\.[\w.]+ import (.+)$", source, re.M))))
    assert told == set(reidzoo.__all__) - {"__version__"}


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = reidzoo.no_such_name


def test_version_is_the_same_everywhere():
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", reidzoo.__version__)
    assert f"[{reidzoo.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {reidzoo.__version__}" in (ROOT / "CITATION.cff").read_text()


def test_package_data():
    package = resources.files("reidzoo")
    assert package.joinpath("py.typed").is_file()
    assert package.joinpath("models/reidzoo_results.csv").is_file()


def test_every_dependency_has_its_reason_in_the_docs():
    """docs/dependencies.md and pyproject.toml name the same packages."""
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.search(r"^dependencies = \[(.*?)^\]", project, re.M | re.S)
    extras = re.search(r"^\[project\.optional-dependencies\](.*?)^\[", project, re.M | re.S)
    assert wanted
    assert extras
    names = re.findall(r"\"([\w-]+)>=", wanted[1] + extras[1])
    page = (ROOT / "docs" / "dependencies.md").read_text()
    documented = re.findall(r"^\| `([\w-]+)` \|", page, re.M)
    assert sorted(documented) == sorted(names)
