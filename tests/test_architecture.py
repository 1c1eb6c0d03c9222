"""The rules of the house, held over the syntax trees: who imports whom, and what the code never does."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import reidzoo

PACKAGE = Path(reidzoo.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Rooms, and the rooms that each may import. Every file of the package is in one of them.
BASE = {"errors", "_env", "_logging", "_optional", "_registry", "_files", "_lazy", "_version"}
MAY_IMPORT = {
    "errors": set(),
    "_env": set(),
    "_files": set(),
    "_version": set(),
    "_lazy": set(),
    "_after_import": set(),
    "_logging": {"_env"},
    "_optional": {"errors"},
    "_registry": {"errors"},
    "models": BASE,
    "data": BASE,
    "weights": BASE | {"models"},
    "eval": BASE | {"data", "models"},
    "training": BASE | {"eval", "weights", "data", "models"},
    "export": BASE | {"models", "weights", "eval"},
    "integrations": BASE | {"models", "weights", "eval"},
    "cli": BASE | {"data", "models", "weights", "eval", "training", "export", "integrations"},
    "__init__": BASE | {"_after_import", "data", "models", "weights", "eval", "training"},  # the table of contents
}
# The one exception: create_model(weights=...) reads a file, and does so inside a function.
LAZY = {("models/_factory.py", "weights")}

# Heavy packages: imported inside functions, or at the top of a room whose business they are.
HEAVY_AT_TOP = {
    "faiss": {"eval"},
    "torchvision": {"data"},
    "PIL": {"data", "eval"},
    "timm": {"models"},
    "sklearn": set(),
    "scipy": set(),
    "matplotlib": set(),
    "onnx": set(),
    "onnxruntime": set(),
    "tensorboard": set(),
    "wandb": set(),
    "huggingface_hub": set(),
    "pandas": set(),
    "cv2": set(),
}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(node: ast.AST, file: Path, *, top: bool = True) -> Iterator[tuple[str, bool]]:
    """(full module name, whether it is imported when the file is) of every import; those for types count as inner."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{name(file)}:{child.lineno} imports relatively"
            module = child.module or ""
            yield module, top
            if module == "reidzoo":  # from reidzoo import _env
                yield from ((f"reidzoo.{alias.name}", top) for alias in child.names)
        else:
            inner = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_type_checking(child)
            yield from imports(child, file, top=top and not inner)


def calls(file: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree(file)) if isinstance(node, ast.Call))


def test_every_file_is_in_a_room():
    assert {room(file) for file in FILES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_imports_go_one_way(file):
    allowed = MAY_IMPORT[room(file)] | {room(file)}
    wrong = []
    for module, top in imports(tree(file), file):
        package, _, rest = module.partition(".")
        target = rest.partition(".")[0]
        if package != "reidzoo" or not target or target == "__version__":
            continue
        lazily = not top and (name(file), target) in LAZY
        if target in MAY_IMPORT and target not in allowed and not lazily:
            wrong.append(module)
    assert not wrong, f"{name(file)} may not import {wrong}"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_heavy_packages_stay_where_they_are_used(file):
    top = {module.partition(".")[0] for module, at_top in imports(tree(file), file) if at_top}
    wrong = [package for package in top if room(file) not in HEAVY_AT_TOP.get(package, {room(file)})]
    assert not wrong, f"{name(file)} imports {wrong} at its top: import inside the function that uses it"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_habits(file):
    text = file.read_text(encoding="utf-8")
    for node in ast.walk(tree(file)):
        where = f"{name(file)}:{getattr(node, 'lineno', '?')}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: bare except"
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), f"{where}: import *"
    for call in calls(file):
        where, function = f"{name(file)}:{call.lineno}", ast.unparse(call.func)
        if room(file) != "cli":
            assert function != "print", f"{where}: print outside cli/"
        assert not function.endswith(".cuda") or function.startswith("torch."), f"{where}: .cuda(, use .to(device)"
        if function == "torch.load":
            given = {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert given.get("weights_only") == "True", f"{where}: torch.load without weights_only=True"
    # Absolute paths of somebody's machine. Docstrings may show /data and /path examples.
    found = re.findall(r"[\"'](/(?:home|root|Users|mnt|work|tmp|opt)/[^\"']*)[\"']", text)
    assert not found, f"{name(file)} holds absolute paths {found}"


def test_file_sizes():
    lines = {name(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    too_long = {file: n for file, n in lines.items() if n > 500}
    assert not too_long
    assert statistics.median(lines.values()) <= 200


def test_no_file_is_named_utils_and_no_room_is_deep():
    for file in FILES:
        assert file.stem not in ("utils", "helpers", "misc", "common")
        assert len(file.relative_to(PACKAGE).parts) <= 3, f"{name(file)} is more than two levels below reidzoo/"


Function = ast.FunctionDef | ast.AsyncFunctionDef


def public(node: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    """Public functions and classes of a module, and the public methods of public classes."""
    for child in node.body:
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public(child)


def inherits_its_docstring(node: Function, file: Path) -> bool:
    """A method that overrides a documented one of a base class: its meaning is said there."""
    for cls in (c for c in ast.walk(tree(file)) if isinstance(c, ast.ClassDef) and node in c.body):
        return bool(cls.bases)
    return False


@pytest.mark.parametrize("file", FILES, ids=name)
def test_public_definitions_are_documented(file):
    if not file.stem.startswith("_") or file.stem == "__init__":
        assert ast.get_docstring(tree(file)), f"{name(file)} has no docstring"
    missing = [
        f"{name(file)}:{node.lineno} {node.name}"
        for node in public(tree(file))
        if not ast.get_docstring(node)
        and not (isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and inherits_its_docstring(node, file))
        and not any("overload" in ast.unparse(d) for d in node.decorator_list)
    ]
    assert not missing


def documented_args(docstring: str) -> list[str]:
    """Names in the ``Args:`` section of a Google-style docstring."""
    lines = docstring.splitlines()
    if "Args:" not in (line.strip() for line in lines):
        return []
    start = next(i for i, line in enumerate(lines) if line.strip() == "Args:")
    indent = len(lines[start]) - len(lines[start].lstrip())
    names: list[str] = []
    for line in lines[start + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        match = re.match(rf"\s{{{indent + 4}}}(\*{{0,2}}\w+(?:, \*{{0,2}}\w+)*)(?: \([^)]*\))?:", line)
        if match:
            names += match[1].replace("*", "").split(", ")
    return names


def signature(node: Function) -> list[str]:
    a = node.args
    arguments = [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs]
    arguments += [a.kwarg] if a.kwarg else []
    return [argument.arg for argument in arguments]


def arguments_to_document(node: Function | ast.ClassDef) -> list[str]:
    """The arguments of a function, or of a class: those of ``__init__``, or a dataclass' fields."""
    if not isinstance(node, ast.ClassDef):
        return signature(node)
    init = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    if init:
        return signature(init[0])[1:]
    return [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]


@pytest.mark.parametrize("file", FILES, ids=name)
def test_documented_arguments_exist(file):
    """An Args section names arguments of the signature, in its order, and none that is gone."""
    wrong = []
    for node in public(tree(file)):
        said, real = documented_args(ast.get_docstring(node) or ""), arguments_to_document(node)
        if said != [argument for argument in real if argument in said]:
            wrong.append(f"{name(file)}:{node.lineno} {node.name} documents {said}, but takes {real}")
    assert not wrong


def test_public_functions_document_every_argument():
    """What `reidzoo.__all__` offers says all its arguments (keyword overrides are said with the config)."""
    for exported in reidzoo.__all__:
        value = getattr(reidzoo, exported)
        if not callable(value) or isinstance(value, type):
            continue
        file = Path(value.__code__.co_filename)
        node = next(n for n in public(tree(file)) if n.name == value.__name__)
        said = documented_args(ast.get_docstring(node) or "")
        real = [argument for argument in signature(node) if argument != "overrides"]
        assert [a for a in said if a != "overrides"] == real or not real, exported
