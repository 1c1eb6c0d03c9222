"""What can go wrong, as one small tree.

Every error says what happened, what was expected and found, and what to type next. Each class derives from
`ReidzooError` and from the built-in class a caller would expect.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ReidzooError(Exception):
    """Base class of all errors that reidzoo raises on purpose."""

    def __str__(self) -> str:
        # KeyError would print its argument's repr; our messages are sentences.
        return " ".join(str(a) for a in self.args)


class UnknownModelError(ReidzooError, KeyError):
    """A model name that is not in the zoo."""


class ConfigError(ReidzooError, ValueError):
    """A training or evaluation setting that is unknown, out of range or in conflict with another."""


class UnknownMethodError(ConfigError, KeyError):
    """A training method that does not exist."""


class DataError(ReidzooError, ValueError):
    """Images or labels that cannot be used as they are."""


class UnknownRecipeError(ConfigError, KeyError):
    """A recipe that does not exist."""


class UnknownDatasetError(DataError, KeyError):
    """A data set name that is not registered."""


class DataNotFoundError(DataError, FileNotFoundError):
    """A folder, split or annotation file that is not where it should be."""


class CorruptImageError(DataError, OSError):
    """An image file that cannot be decoded."""


class CheckpointError(ReidzooError, RuntimeError):
    """A weights file that is damaged, of another model, or not what its reader expects."""


class WeightsNotFoundError(ReidzooError, FileNotFoundError):
    """Pre-trained weights that are not on this machine."""


class StoreError(ReidzooError, OSError):
    """The local weight store cannot be written: disk full, read-only, not a folder."""


class UnknownLicenseError(ReidzooError, KeyError):
    """A licence id that reidzoo does not know."""


class LicenseNotAcceptedError(ReidzooError, PermissionError):
    """Licensed weights whose terms have not been accepted here, or do not allow what was asked."""


class HubAccessError(ReidzooError, OSError):
    """A hub repository that cannot be reached or may not be read."""


class MissingExtraError(ReidzooError, ImportError):
    """An optional package that is not installed."""


class TrainingError(ReidzooError, RuntimeError):
    """A training run that cannot go on (non-finite loss, a run folder of another run)."""


class DivergedError(TrainingError):
    """A training run whose loss or weights are no longer finite, or whose features have collapsed.

    Attributes:
        step: the first that shows it, from 1.
    """

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'a', 'b'?`` for the closest of `known`, or an empty string."""
    known = list(known)
    lowered = {k.lower(): k for k in known}
    close = get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    close.sort(key=lambda c: not c.startswith(name.lower()))  # "market" means "market1501" before "dgmarket"
    return f" Did you mean {', '.join(repr(lowered[c]) for c in close)}?" if close else ""
