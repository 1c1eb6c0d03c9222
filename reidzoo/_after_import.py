"""Run something once another package has been imported, without importing it.

timm finds models in a registry, so ours have to be entered there; importing timm for that would make ``import reidzoo``
take seconds. Python offers no other moment than the import system's own hook, ``sys.meta_path``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def after_import(package: str, action: Callable[[], None]) -> None:
    """Call `action` when `package` gets imported, and at once if it has been. It is called again after a reload.

    An exception of `action` is logged and goes no further: the package itself works.
    """
    if package in sys.modules:
        _run(package, action)
    sys.meta_path.insert(0, _Finder(package, action))


class _Finder(MetaPathFinder):
    """Finds nothing itself: lets the other finders find `package`, and adds the action to the end of its execution."""

    def __init__(self, package: str, action: Callable[[], None]) -> None:
        self.package = package
        self.action = action
        self.asking = threading.local()  # guards against another hook of this kind that asks us while we ask it

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.package or getattr(self.asking, "now", False):
            return None
        self.asking.now = True
        try:
            others = (getattr(finder, "find_spec", None) for finder in sys.meta_path if finder is not self)
            specs = (find(fullname, path, target) for find in others if find is not None)
            spec: ModuleSpec | None = next((found for found in specs if found is not None), None)
        finally:
            self.asking.now = False
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self._extend(spec.loader)
        return spec

    def _extend(self, loader: Any) -> None:
        # On the loader itself, which stays of its class: importlib.resources and pkgutil ask it for more than this.
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if module.__name__ == self.package:  # frozen applications have one loader for everything
                _run(self.package, self.action)

        loader.exec_module = exec_module


def _run(package: str, action: Callable[[], None]) -> None:
    try:
        action()
    except Exception:  # whatever goes wrong here must not take the other package down
        import logging  # not worth its time in every import of reidzoo

        logging.getLogger(__name__).warning("reidzoo could not add itself to %s", package, exc_info=True)
