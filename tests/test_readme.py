"""What the README, the docs and the examples say, run as a user would; and that it agrees with the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from reidzoo.cli._flags import show
from reidzoo.cli.main import COMMANDS
from reidzoo.training import configs
from reidzoo.training.configs import TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Both commands that open the README are what brought us here: the environment is installed, and this is its pytest.
PRELUDE = "set -euo pipefail\npip() { :; }\npytest() { :; }\n"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    info: str
    code: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.M | re.S)
    return [Block(page, text[: m.start()].count("\n") + 1, m[1].strip(), m[2]) for m in found]


def runnable(page: Path) -> list[Block]:
    return [b for b in blocks(page) if b.language in ("python", "bash", "sh") and "no-run" not in b.info]


def run(block: Block, folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Run a block in `folder` with the programs beside `python` first on the path."""
    programs = (str(Path(python).parent), str(Path(sys.executable).parent), os.environ["PATH"])
    env = {**os.environ, "PATH": os.pathsep.join(programs)}
    env["REIDZOO_HOME"] = str(folder / ".home")
    env.pop("REIDZOO_DATA", None)
    if block.language == "python":
        script = folder / f"block_{block.line}.py"
        script.write_text(block.code, encoding="utf-8")
        command = [python, str(script)]
    else:
        command = ["bash", "-c", PRELUDE + block.code]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module", params=[p for p in PAGES if runnable(p)], ids=lambda p: p.name)
def page(request, tmp_path_factory, warm_python):
    """A page whose blocks were run in their order, in one folder; the first failure stops it."""
    folder = tmp_path_factory.mktemp(request.param.stem)
    done = []
    for block in runnable(request.param):
        python = sys.executable if "reidzoo demo" in block.code else warm_python  # the two commands: just as they are
        done.append((block, run_or_fail(block, folder, python)))
    return request.param, folder, done


def run_or_fail(block: Block, folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    done = run(block, folder, python)
    where = f"{block.page.name}:{block.line}"
    assert done.returncode == 0, f"{where} ended with {done.returncode}:\n{block.code}\n{done.stdout}\n{done.stderr}"
    return done


def test_examples_run(page):
    path, folder, done = page
    assert done
    if path.name != "README.md":
        return
    # The main job left what the README says it leaves.
    demo = folder / "reidzoo-demo"
    assert list(demo.rglob("*.safetensors"))
    assert list(demo.rglob("metrics.json"))
    assert len(list(demo.rglob("*.png"))) >= 2
    assert "mAP" in done[0][1].stdout
    assert (folder / "runs" / "report" / "ranking.png").exists()
    assert (folder / "features.npy").exists()


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example_scripts_run(script, tmp_path, warm_python):
    block = Block(script, 1, "python", script.read_text(encoding="utf-8"))
    done = run_or_fail(block, tmp_path, warm_python)
    assert done.stdout.strip()


def test_readme_opens_with_the_two_commands():
    first, second, *_ = (b.code.strip() for b in blocks(ROOT / "README.md"))
    assert first == "pip install . && reidzoo demo"
    assert second == 'pip install ".[test]" && pytest'
    assert '".[test]"' in (ROOT / ".ci" / "run").read_text()


def test_every_block_says_its_language_and_few_are_not_run():
    skipped = [b for page in PAGES for b in blocks(page) if "no-run" in b.info]
    assert len(skipped) <= 5
    for block in (b for page in PAGES for b in blocks(page)):
        assert block.language in ("", "python", "bash", "bibtex"), f"{block.page.name}:{block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_cli_page_names_every_command():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"`reidzoo {name}" in text


def table(config: type[TrainConfig]) -> str:
    """The settings that `config` has and the class that it extends has not (or with another default), as Markdown."""
    base = config.__base__ if config is not TrainConfig else None
    common = {f.name: (f.default, f.metadata["help"]) for f in fields(base)} if base else {}
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for f in fields(config):
        text = f.metadata["help"]
        if common.get(f.name) != (f.default, text):
            choices = f"; {', '.join(f.metadata['choices'])}" if f.metadata["choices"] else ""
            rows.append(f"| `{f.name}` | {show(f.default)} | {text}{choices} |")
    return "\n".join(rows)


SETTINGS = [name for name, value in vars(configs).items() if isinstance(value, type) and issubclass(value, TrainConfig)]


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_tables_agree_with_the_dataclasses(name):
    """Put right by ``REIDZOO_WRITE_DOCS=1 pytest tests/test_readme.py -k tables``."""
    (page,) = (p for p in PAGES if f"<!-- table: {name} -->" in p.read_text(encoding="utf-8"))
    text, expected = page.read_text(encoding="utf-8"), table(getattr(configs, name))
    match = re.search(rf"<!-- table: {name} -->\n(.*?)<!-- end -->", text, re.S)
    assert match
    if os.environ.get("REIDZOO_WRITE_DOCS") == "1":
        page.write_text(text[: match.start(1)] + f"\n{expected}\n\n" + text[match.end(1) :], encoding="utf-8")
        return
    assert match[1].strip() == expected


def test_every_settings_class_is_in_the_docs():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name, value in vars(configs).items():
        if isinstance(value, type) and issubclass(value, TrainConfig):
            assert f"<!-- table: {name} -->" in text
