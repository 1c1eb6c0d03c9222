"""Where ``pretrained=True`` gets its file from."""

from __future__ import annotations

from pathlib import Path

from reidzoo.errors import WeightsNotFoundError
from reidzoo.models import ModelSpec
from reidzoo.weights import hub, licenses, store


def pretrained_file(spec: ModelSpec, cache_dir: str | Path | None = None) -> Path:
    """The file with the released weights of a backbone: from the local store, else from the configured hub repository.

    Args:
        spec: The backbone.
        cache_dir: Where hub downloads are kept.

    Raises:
        LicenseNotAcceptedError: Its terms have not been accepted here.
        WeightsNotFoundError: The weights are not on this machine, and no hub repository is configured.
        HubAccessError: The hub repository cannot be read.
    """
    licenses.require(spec.license)
    if (entry := store.find(spec.name)) is not None:
        return entry.path
    if hub.hub_repo() is not None:
        return hub.download(spec, cache_dir)
    terms, file = licenses.get(spec.license), f"{spec.official_stem}.pth" if spec.official_stem else "FILE"
    raise WeightsNotFoundError(
        f"The pre-trained weights of {spec.name!r} are not on this machine, and their terms do not let reidzoo ship "
        f"them. 1) Get them: {terms.request} ({terms.url}) 2) Put them into the store: reidzoo weights import {file} "
        f"3) Call this again. Or load a file where it is: reidzoo.create_model({spec.name!r}, weights={file!r}). "
        f"If your lab runs a gated hub repository, name it in REIDZOO_HUB_REPO=owner/name."
    )
