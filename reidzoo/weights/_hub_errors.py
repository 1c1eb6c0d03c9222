"""What can go wrong between here and the hub, each with its own message and the next step."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from reidzoo.errors import HubAccessError, ReidzooError, StoreError

_HUB = "https://huggingface.co"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


@dataclass(frozen=True)
class Target:
    """What was asked for, and where.

    Attributes:
        repo: ``owner/name``.
        revision: Branch, tag or commit; None for the default branch.
        what: What was wanted of it, as the object of a sentence: "ghostnet_0_5.safetensors".
    """

    repo: str
    revision: str | None = None
    what: str = "the model"

    @property
    def endpoint(self) -> str:
        """Address of the hub, without a password that may be in it."""
        from huggingface_hub import constants

        return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)

    @property
    def page(self) -> str:
        """The repository's page, which also says whether another hub than the public one is in use."""
        other = "" if self.endpoint == _HUB else " (the hub of HF_ENDPOINT)"
        return f"{self.endpoint}/{self.repo}{other}"


@contextmanager
def explained(target: Target) -> Iterator[None]:
    """Turn what huggingface_hub raises in the block into errors of ours.

    Raises:
        HubAccessError: The repository cannot be reached or may not be used.
        StoreError: The cache cannot be written.
    """
    from huggingface_hub.utils import HfHubHTTPError

    # The first base of HfHubHTTPError is the root of the HTTP library beneath, which changed over the releases
    # (requests, httpx); all that a broken connection raises derives from it or from OSError. hf_xet and the uploads
    # know RuntimeError alone.
    try:
        yield
    except ReidzooError:
        raise
    except (HfHubHTTPError.__bases__[0], OSError, RuntimeError) as e:
        raise _explain(e, target) from e


def _explain(error: Any, target: Target) -> ReidzooError:
    from huggingface_hub.utils import LocalEntryNotFoundError, OfflineModeIsEnabled

    # huggingface_hub wraps whatever kept it from asking into "not in the cache".
    unasked = isinstance(error, LocalEntryNotFoundError)
    error = error.__cause__ if unasked and error.__cause__ is not None else error
    if isinstance(error, OfflineModeIsEnabled):
        return HubAccessError(
            f"Offline mode is on (HF_HUB_OFFLINE), and {target.what} of {target.repo} is not in the cache of this "
            f"machine. Load it once with the network: unset HF_HUB_OFFLINE"
        )
    if (response := getattr(error, "response", None)) is not None:
        return HubAccessError(_answered(error, int(response.status_code), target))
    if isinstance(error, OSError) and error.errno in _DISK:
        return StoreError(
            f"The hub's cache cannot be written: {error.strerror} ({error.filename}). Free some space, or name another "
            f"folder with cache_dir=... or the environment variable HF_HOME."
        )
    # The first line is the reason; HTTP libraries add addresses and stacks of causes below.
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    if unasked:
        return HubAccessError(
            f"{target.page} cannot be reached: {reason}. Check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT, "
            f"then type the same again. Files that were loaded before still load without network."
        )
    return HubAccessError(
        f"The connection to {target.page} broke off at {target.what}: {reason}. Nothing partial was kept under a final "
        f"name. Type the same again; on a slow line, with HF_HUB_DOWNLOAD_TIMEOUT=60."
    )


def _answered(error: Any, status: int, target: Target) -> str:
    """Message for an answer of the hub that is no success."""
    from huggingface_hub.utils import RevisionNotFoundError

    said = (getattr(error, "server_message", None) or "").strip()
    quoted = f" ({said})" if said else ""
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{target.page} has no revision {target.revision or 'main'!r}. Its branches and commits are listed there; "
            f"write {target.repo}@<revision>, or {target.repo} for the default branch."
        )
    if status in (401, 403):
        return _forbidden(error, status, said, target)
    if status == 404:
        return (
            f"There is no repository {target.page}, or your account may not see it. Check the name (REIDZOO_HUB_REPO "
            f"or the argument), and with `hf auth whoami` who you are."
        )
    if status == 429:
        return f"The hub has had too many requests from here{quoted}. Wait some minutes, then type the same again."
    if status >= 500:
        return (
            f"{target.page} answers with an error of its own: {status}{quoted}. It is not you; type the same again in "
            f"some minutes. Files that were loaded before still load."
        )
    return f"{target.page} refused the request for {target.what} with {status}{quoted}."


def _forbidden(error: Any, status: int, said: str, target: Target) -> str:
    """Message for 401 and 403. The hub does not tell a private repository from one that is not there."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import GatedRepoError

    gated, words = isinstance(error, GatedRepoError), said.lower()
    if status == 401 and get_token() is None:
        state = "is gated" if gated else "is private, gated or not there"
        return (
            f"{target.page} {state}, and you are not logged in. Ask for access on that page if you have not, then "
            f"type: hf auth login (or set HF_TOKEN)"
        )
    if status == 401:
        return (
            f"The hub does not accept your token for {target.page}: it is wrong, expired or revoked. Make a new one at "
            f"{target.endpoint}/settings/tokens, then type: hf auth login (a token in HF_TOKEN goes before it)"
        )
    if "awaiting" in words:
        return (
            f"Your request for access to {target.page} waits for its owners to approve it. Its state is shown at "
            f"{target.endpoint}/settings/gated-repos; type the same again when it is approved."
        )
    if "rejected" in words:
        return f"The owners of {target.page} have rejected your request for access. Write to them if that is a mistake."
    if "fine-grained" in words:
        return (
            f"Your token may not read gated repositories such as {target.page}. Allow it at "
            f"{target.endpoint}/settings/tokens: edit the token, tick 'Read access to contents of all public gated "
            f"repos you can access'."
        )
    if gated:
        return (
            f"{target.page} is gated, and your account has not been given access. Ask for it on that page, then type "
            f"the same again (`hf auth whoami` shows which account you use)."
        )
    if "disabled" in words:
        return f"{target.page} has been disabled by the hub. Its owners know why; another copy loads with weights=PATH."
    return (
        f"Your account or token may not do that with {target.page}{f' ({said})' if said else ''}. Check the token's "
        f"permissions at {target.endpoint}/settings/tokens; uploads need a token that may write."
    )
