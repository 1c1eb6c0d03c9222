"""The package as a whole: its names, its version, and what importing it costs."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import reidzoo

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "timm", "faiss", "PIL", "sklearn", "matplotlib", "huggingface_hub", "scipy")


def heavy_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has imported after `code`."""
    program = f"import sys\n{code}\nprint('HEAVY', *(m for m in {HEAVY!r} if m in sys.modules))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
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
