"""Terms of other people's weights and data: shown, accepted, recorded, and asked again when they change.

The terms here are summaries in our words; what binds is the agreement that the rights holders give out.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from reidzoo import _env
from reidzoo._files import atomic
from reidzoo._logging import get_logger
from reidzoo._registry import Registry
from reidzoo.errors import LicenseNotAcceptedError, UnknownLicenseError

_logger = get_logger(__name__)


@dataclass(frozen=True)
class License:
    """Terms of use.

    Attributes:
        id: Name in `accept` and in file headers.
        title: What it is called.
        covers: What it is about.
        terms: One sentence per obligation.
        request: How access is granted.
        url: Where the agreement itself is.
        citation: The paper to cite.
    """

    id: str
    title: str
    covers: str
    terms: tuple[str, ...]
    request: str
    url: str
    citation: str

    @property
    def terms_sha256(self) -> str:
        """Identifies this wording: an acceptance holds for it alone."""
        return hashlib.sha256(json.dumps([self.covers, *self.terms]).encode()).hexdigest()

    def text(self) -> str:
        """The terms as they are shown before acceptance."""
        lines = [f"{self.title} ({self.id})", "", f"Covers {self.covers}.", ""]
        lines += [f"  {number}. {term}" for number, term in enumerate(self.terms, 1)]
        lines += ["", f"Access: {self.request}", f"Agreement: {self.url}", f"Cite: {self.citation}"]
        return "\n".join([*lines, "", "This is a summary; the agreement of the rights holders is what binds."])


@dataclass(frozen=True)
class Acceptance:
    """That a licence was accepted on this machine.

    Attributes:
        license: Its id.
        terms_sha256: Hash of the terms as they were shown.
        accepted_at: When, ISO 8601 in UTC.
        how: "interactive", "python" or the environment variable that said so.
    """

    license: str
    terms_sha256: str
    accepted_at: str
    how: str


_RESEARCH = (
    "Use for non-commercial academic research only.",
    "No redistribution: do not pass copies on, in whole or in part.",
    "No commercial use of any kind.",
)
_PRIVACY = (
    "Protect the privacy of the people in the images: do not try to find out who they are, "
    "and do not use the system to monitor individuals."
)
_CION = "Zuo et al., Cross-video Identity Correlating for Person Re-identification Pre-training, NeurIPS 2024"
_CION_URL = "https://github.com/Zplusdragon/CION_ReIDZoo"

LICENSES: Registry[License] = Registry("license", UnknownLicenseError)
for _license in (
    License(
        id="reidzoo",
        title="ReIDZoo model licence agreement",
        covers="the 32 pre-trained ReIDZoo backbones of CION, and what is derived from them",
        terms=(
            *_RESEARCH,
            "No modification without the authors' approval. Converting your file to another format on your own machine "
            "is your act; `reidzoo weights import --link` uses it unconverted.",
            "Cite the paper in every publication that uses them.",
            _PRIVACY,
        ),
        request="sign the agreement at the address below; its authors then send the download link.",
        url=_CION_URL,
        citation=_CION,
    ),
    License(
        id="cion-al",
        title="CION-AL data set licence agreement",
        covers="the CION-AL images and identity annotations",
        terms=(
            *_RESEARCH,
            "No modification without the authors' approval.",
            "Cite the paper in every publication that uses it.",
            _PRIVACY,
        ),
        request="sign the agreement at the address below; access on the Hugging Face hub is then granted.",
        url=_CION_URL,
        citation=_CION,
    ),
    License(
        id="luperson",
        title="LUPerson and LUPerson-NL terms",
        covers="the LUPerson and LUPerson-NL images, and weights trained on them "
        "(LUPerson, LUPerson-NL, TransReID-SSL, PASS, SOLIDER)",
        terms=(
            "Use for research only.",
            "Keep to the terms that each release states for its own files.",
            "Cite the papers of the data and of the method.",
            _PRIVACY,
        ),
        request="each release states how its files are obtained.",
        url="https://github.com/DengpanFu/LUPerson",
        citation="Fu et al., Unsupervised Pre-training for Person Re-identification, CVPR 2021",
    ),
):
    LICENSES.add(_license.id, _license)


def get(license_id: str) -> License:
    """Return the terms called `license_id`.

    Raises:
        UnknownLicenseError: With the known ones.
    """
    return LICENSES[license_id]


def accepted(license_id: str) -> Acceptance | None:
    """Return the recorded acceptance of the present terms; None if there is none, or only of earlier terms."""
    record = _read(license_id)
    return record if record and record.terms_sha256 == get(license_id).terms_sha256 else None


def accept(license_id: str, *, how: str = "python") -> Acceptance:
    """Record that you have read and accept the terms of `license_id` (see ``get(license_id).text()``).

    Args:
        license_id: The licence.
        how: How it was accepted, for the record.

    Raises:
        UnknownLicenseError: There is no such licence.
        OSError: The record cannot be written.
    """
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    acceptance = Acceptance(license_id, get(license_id).terms_sha256, now, how)
    with atomic(_path(license_id)) as temporary:
        temporary.write_text(json.dumps(asdict(acceptance), indent=2) + "\n", encoding="utf-8")
    return acceptance


def require(license_id: str) -> None:
    """Pass if the terms of `license_id` have been accepted here, or ``REIDZOO_ACCEPT_LICENSE`` names it.

    Raises:
        LicenseNotAcceptedError: Says what they are about and how to accept them.
    """
    if accepted(license_id):
        return
    if license_id in _env.accepted_licenses():
        try:
            accept(license_id, how="REIDZOO_ACCEPT_LICENSE")
        except OSError as e:  # a read-only home: the variable is the record
            _logger.debug("acceptance of %s is not recorded: %s", license_id, e)
        return
    terms, earlier = get(license_id), _read(license_id)
    why = f"changed since you accepted them on {earlier.accepted_at[:10]}" if earlier else "have not been accepted here"
    raise LicenseNotAcceptedError(
        f"The terms of {terms.covers} {why}: {terms.terms[0]} They are not shipped with reidzoo. Access: "
        f"{terms.request} ({terms.url}) Read and accept the terms: reidzoo license accept {license_id} "
        f"(for automation: REIDZOO_ACCEPT_LICENSE={license_id})"
    )


def folder() -> Path:
    """Where acceptances are recorded, one file per licence; it need not exist."""
    return _env.home() / "licenses"


def _path(license_id: str) -> Path:
    return folder() / f"{license_id}.json"


def _read(license_id: str) -> Acceptance | None:
    """The record on disk, of whatever terms; a damaged one counts as none."""
    try:
        return Acceptance(**json.loads(_path(get(license_id).id).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as e:
        _logger.warning("%s is damaged (%s): the licence has to be accepted again", _path(license_id), e)
        return None
