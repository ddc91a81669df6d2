"""Exceptions, named by what they mean.

Ask ``retryable`` and ``outcome_unknown`` before you look at the class: classes may be added, the
two questions stay.
"""

from __future__ import annotations

import json
from typing import Any, Optional

__all__ = [
    "ClaimLost",
    "Error",
    "Final",
    "InFlight",
    "InvalidArgument",
    "NewerVersion",
    "NotApplied",
    "OutcomeUnknown",
    "PayloadMismatch",
    "RecordCorrupt",
    "Refused",
    "ResultNotStored",
    "SettingsError",
    "StoreUnavailable",
    "TooLarge",
    "TooOld",
]


class Error(Exception):
    """Something that semel refuses or cannot do.

    Attributes:
        code: the number under which ``docs/errors`` explains it.
        retryable: whether the same call with the same key may succeed later.
        retry_after: seconds after which it makes sense, if known.
        outcome_unknown: whether the effect may have happened. False is a promise: this call caused
            nothing.
        held: whether the record is parked until somebody resolves it (``semel records``).
        decision: what a queue must do with the task: ``acknowledge``, ``reschedule``, ``park`` or
            ``dead-letter``.
    """

    code: str = ""
    retryable: bool = False
    retry_after: Optional[float] = None
    outcome_unknown: bool = False
    held: bool = False
    decision: str = "reschedule"

    def __init__(self, message: str = "", **parts: Any) -> None:
        super().__init__(message)
        for name, value in parts.items():
            setattr(self, name, value)

    def __reduce__(self) -> Any:
        """Keep the parts when the exception travels between processes."""
        return (_rebuilt, (type(self), self.args, self.__dict__))


class ClaimLost(Error):
    """Another claim took this one's place; what this one wrote was not kept."""

    code = "E0107"


class InFlight(Error):
    """Another call with this key is executing. Ask again after ``retry_after``."""

    code = "E0110"
    retryable = True


class InvalidArgument(Error, ValueError):
    """A key, tenant or payload breaks its rule. Fix the caller."""

    code = "E0108"
    decision = "dead-letter"


class NewerVersion(Error):
    """A newer version wrote this store or record. Upgrade this program."""

    code = "E0104"
    decision = "park"


class NotApplied(Error):
    """Raise it in a guarded function to say: it is proven that nothing happened.

    The key is free again, and a retry runs the function again. ``raise semel.NotApplied("the
    gateway refused the connection") from error``.
    """

    code = "E0112"
    retryable = True


class OutcomeUnknown(Error):
    """An execution ended without telling. The effect may have happened: do not retry blindly."""

    code = "E0106"
    outcome_unknown = True


class PayloadMismatch(Error):
    """The key was used before with another payload. A new operation needs a new key."""

    code = "E0109"
    decision = "dead-letter"


class RecordCorrupt(Error):
    """The record cannot be read. Nothing was executed; somebody has to look."""

    code = "E0103"
    decision = "park"


class Refused(Error):
    """The operation ended with a refusal that is stored: :attr:`answer`. It will not change."""

    code = "E0113"
    decision = "acknowledge"
    answer_json: Optional[str] = None

    @property
    def answer(self) -> Any:
        """The stored refusal: what :class:`Final` was raised with."""
        return None if self.answer_json is None else json.loads(self.answer_json)


class ResultNotStored(OutcomeUnknown):
    """The function ran to its end, and its result cannot be stored."""


class SettingsError(Error, ValueError):
    """Settings contradict each other or break the promise. Fix the settings."""

    code = "E0101"
    decision = "park"


class StoreUnavailable(Error):
    """The store could not be asked. Try again with the same key."""

    code = "E0102"
    retryable = True


class TooLarge(Error):
    """The operation finished, and its answer was too large to be kept."""

    code = "E0105"
    decision = "acknowledge"


class TooOld(Error):
    """The key says that it is older than records are kept. Reconcile, then use a new key."""

    code = "E0111"
    decision = "dead-letter"


class Final(Exception):
    """Raise it in a guarded function to refuse for good.

    The answer (anything that is JSON) is stored, and every caller gets it as :class:`Refused`.
    """

    def __init__(self, answer: Any = None) -> None:
        super().__init__(answer)
        self.answer = answer


_KINDS: dict[str, type[Error]] = {
    "ClaimLost": ClaimLost,
    "Corrupt": RecordCorrupt,
    "InFlight": InFlight,
    "Invalid": InvalidArgument,
    "Mismatch": PayloadMismatch,
    "NotApplied": NotApplied,
    "OutcomeUnknown": OutcomeUnknown,
    "Refused": Refused,
    "Settings": SettingsError,
    "TooLarge": TooLarge,
    "TooNew": NewerVersion,
    "TooOld": TooOld,
    "Unavailable": StoreUnavailable,
}


def of_kind(kind: str) -> type[Error]:
    """The class of an error kind of the engine."""
    return _KINDS.get(kind, Error)


def _rebuilt(kind: type[Error], args: tuple[Any, ...], parts: dict[str, Any]) -> Error:
    error = kind(*args)
    error.__dict__.update(parts)
    return error
