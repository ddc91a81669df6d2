"""Makes retried work take effect once: functions, Celery tasks and HTTP requests.

>>> import semel
>>> guard = semel.Guard("memory:", operation="charge", effect="keyed")
>>> guard.run("order-17", {"amount": 100}, lambda: "charged")
'charged'
>>> guard.run("order-17", {"amount": 100}, lambda: "never run")
'charged'
>>> guard.run("order-17", {"amount": 999}, lambda: "never run")
Traceback (most recent call last):
semel.errors.PayloadMismatch: the key was used before with another payload; a new operation needs \
a new key

``semel.celery`` is the base class for Celery tasks, ``semel.wsgi`` and ``semel.asgi`` are the
middleware for web applications. Importing ``semel`` imports none of these frameworks.
"""

import atexit as _atexit

from ._semel import KEY_HEADER, __version__
from ._semel import shutdown as _shutdown
from .attempt import Attempt, current_attempt
from .decorator import idempotent
from .errors import (
    ClaimLost,
    Error,
    Final,
    InFlight,
    InvalidArgument,
    NewerVersion,
    NotApplied,
    OutcomeUnknown,
    PayloadMismatch,
    RecordCorrupt,
    Refused,
    ResultNotStored,
    SettingsError,
    StoreUnavailable,
    TooLarge,
    TooOld,
)
from .guard import SINGLE_TENANT, Guard

__all__ = [
    "KEY_HEADER",
    "SINGLE_TENANT",
    "Attempt",
    "ClaimLost",
    "Error",
    "Final",
    "Guard",
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
    "__version__",
    "current_attempt",
    "idempotent",
]

# What is being written when the interpreter ends gets its moment.
_atexit.register(_shutdown)
