"""Files of hub repositories, through huggingface_hub's cache.

huggingface_hub compares sizes; checksums are compared here, once, when a file arrives.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reidzoo._files import sha256
from reidzoo._version import __version__
from reidzoo.errors import CheckpointError, WeightsNotFoundError
from reidzoo.weights._hub_errors import Target, explained

LIBRARY = {"library_name": "reidzoo", "library_version": __version__}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch(repo: str, revision: str | None, names: Sequence[str], cache_dir: str | Path | None) -> Path:
    """Get the first of `names` that a repository has; what is in the cache goes first, so that it loads offline too.

    Args:
        repo: ``owner/name``.
        revision: Branch, tag or commit; None for the default branch.
        names: File names.
        cache_dir: Where downloads are kept; None: huggingface_hub's cache.

    Raises:
        WeightsNotFoundError: The repository has none of them.
        HubAccessError: It cannot be reached or read.
        CheckpointError: The file did not arrive as it left.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    where: dict[str, Any] = {"repo_id": repo, "revision": revision, "cache_dir": cache_dir}
    known = _blobs(repo, cache_dir)
    for name in sorted(names, key=lambda n: not isinstance(try_to_load_from_cache(filename=n, **where), str)):
        with explained(Target(repo, revision, name)):
            try:
                path = Path(hf_hub_download(filename=name, **where, **LIBRARY))
            except LocalEntryNotFoundError:  # could not ask, which is another thing than an answer
                raise
            except EntryNotFoundError:
                continue
            _check_arrival(path, known, repo)
            return path
    raise WeightsNotFoundError(
        f"{Target(repo).page} has no {' and no '.join(names)}{f' in revision {revision!r}' if revision else ''}. "
        f"Its files are listed there; one that you have loads with reidzoo.create_model(NAME, weights=PATH)."
    )


def _blobs(repo: str, cache_dir: str | Path | None) -> set[str]:
    """Names of the contents that the cache has of a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(cache_dir or constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    return {file.name for file in folder.iterdir()} if folder.is_dir() else set()


def _check_arrival(path: Path, known: set[str], repo: str) -> None:
    """Compare a file that is new in the cache with its SHA-256, which is the name of its content there.

    Only large files have one. A cache that cannot link keeps no such names: there, sizes alone have been compared.
    """
    if not path.is_symlink():
        return
    blob = path.parent / os.readlink(path)
    if blob.name in known or not _SHA256.fullmatch(blob.name) or (found := sha256(path)) == blob.name:
        return
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)
    raise CheckpointError(
        f"{path.name} of {repo} arrived damaged: its SHA-256 is {found}, that on the hub {blob.name}. It has been "
        f"removed from the cache. Type the same again; if it stays so, tell the owners of the repository."
    )
