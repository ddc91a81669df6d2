"""The guard: settings, and the calls that run a function once for a key."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable
from typing import Any, Callable, Optional, TypeVar, Union

from . import _json, _semel
from .attempt import Attempt

T = TypeVar("T")

Seconds = Union[float, int, datetime.timedelta]
"""A time: a number of seconds, or a ``timedelta``."""

SINGLE_TENANT = "-"
"""The tenant of those who share one name space."""


class Guard:
    """Runs functions so that retried work takes effect once, for one kind of operation.

    Cheap to make and to share between threads, event loops and forked children: the store is
    opened at the first use, in each process.

    Args:
        store: ``sqlite:PATH``, ``postgres://…``, ``redis://…``, ``redis-cluster://…``,
            ``redis-sentinel://…`` or ``memory:``.
        operation: what is being done, as a stable name. The same key under two operations names
            two records.
        effect: what the function does to the world. Required, because it decides what can be
            promised: ``keyed`` (the downstream deduplicates on ``attempt.step_key``),
            ``transactional`` (effect and record commit together, see
            :meth:`Attempt.complete_in`), ``fenced-query`` (the sink compares
            ``attempt.fence``), ``hold`` (an unknown outcome is parked: at most once) or ``retry``
            (it is run again: at least once).
        tenant: whose keys they are, where a call does not say.
        lease: how long a claim outlives its process. A heartbeat prolongs it, on a thread that
            needs neither the interpreter's lock nor your event loop. 30 s.
        retention: how long an answer is kept. A retry after that is a new operation. 24 h.
        wait: how long a duplicate waits for the running call before it hears
            :class:`semel.InFlight`. 0.
        execution_max: the ceiling of the heartbeat. 10 min.
        retry_window: the longest time after which a caller may still retry, if known.
        retry_after: what a refused duplicate is told. 1 s.
        lost_leases_max: after so many lost leases in a row the record is held. 3.
        store_patience: how long to go on while the store cannot be reached. 5 s, at most half a
            lease.
        outcome_bytes_max: the largest answer that is kept. 4 MiB.
        step_bytes_max: the largest result of a step. 256 KiB.
        steps_max: the most steps of one operation. 100.
        refuse_old_keys: refuse an unknown UUIDv7 key that is older than the retention. True.

    Raises:
        SettingsError: the settings contradict each other or break the promise.
        InvalidArgument: the store's URL, the operation or the effect is not understood.
    """

    def __init__(
        self,
        store: str,
        *,
        operation: str,
        effect: str,
        tenant: str = SINGLE_TENANT,
        lease: Optional[Seconds] = None,
        retention: Optional[Seconds] = None,
        wait: Optional[Seconds] = None,
        execution_max: Optional[Seconds] = None,
        retry_window: Optional[Seconds] = None,
        retry_after: Optional[Seconds] = None,
        lost_leases_max: Optional[int] = None,
        store_patience: Optional[Seconds] = None,
        outcome_bytes_max: Optional[int] = None,
        step_bytes_max: Optional[int] = None,
        steps_max: Optional[int] = None,
        refuse_old_keys: Optional[bool] = None,
    ) -> None:
        given: dict[str, Union[Seconds, None]] = {
            "lease": lease,
            "retention": retention,
            "wait": wait,
            "execution_max": execution_max,
            "retry_window": retry_window,
            "retry_after": retry_after,
            "lost_leases_max": lost_leases_max,
            "store_patience": store_patience,
            "outcome_bytes_max": outcome_bytes_max,
            "step_bytes_max": step_bytes_max,
            "steps_max": steps_max,
            "refuse_old_keys": refuse_old_keys,
        }
        settings = {name: _number(value) for name, value in given.items() if value is not None}
        self._core = _semel.Guard(store, operation, effect, settings)
        self._tenant = tenant

    @property
    def operation(self) -> str:
        """The name of what is being done."""
        return self._core.operation

    @property
    def effect(self) -> str:
        """The effect mode."""
        return self._core.effect

    @property
    def lease(self) -> float:
        """The lease in seconds."""
        return self._core.lease

    def attempt(self, key: str, payload: Any = None, *, tenant: Optional[str] = None) -> Attempt:
        """Claim a key in a ``with`` (or ``async with``) block. See :class:`semel.Attempt`.

        Args:
            key: the caller's name for this one operation: 1 to 255 visible ASCII characters.
            payload: what makes the call this call, as JSON. The same key with another payload is
                refused.
            tenant: whose key it is.

        Raises:
            InvalidArgument: key, tenant or payload break a rule. Nothing ran.
        """
        tenant = self._tenant if tenant is None else tenant
        return Attempt(self._core, tenant, key, _json.dumped("payload", payload))

    def run(
        self,
        key: str,
        payload: Any,
        function: Callable[[], T],
        *,
        tenant: Optional[str] = None,
    ) -> T:
        """Run ``function`` once for this key, or return what it returned before.

        Every caller gets the value as it is stored, so what JSON does not keep (a tuple becomes a
        list) is the same for the first caller and for all later ones.

        Raises:
            InFlight: another call with this key is executing.
            PayloadMismatch: the key was used with another payload.
            OutcomeUnknown: an earlier execution ended without telling.
            Refused: it ended with a stored refusal.
            StoreUnavailable: the store could not be asked.
            ResultNotStored: the function ran, and its result is not JSON.

        What ``function`` raises goes on to the caller; see :class:`semel.Attempt` for what becomes
        of the record.
        """
        with self.attempt(key, payload, tenant=tenant) as attempt:
            if not attempt.replayed:
                result = function()
                if attempt._in_transaction is None:
                    attempt.complete(result)
        value: T = attempt.value
        return value

    async def run_async(
        self,
        key: str,
        payload: Any,
        function: Callable[[], Awaitable[T]],
        *,
        tenant: Optional[str] = None,
    ) -> T:
        """:meth:`run` for a coroutine function. Nothing here blocks the event loop."""
        async with self.attempt(key, payload, tenant=tenant) as attempt:
            if not attempt.replayed:
                result = await function()
                if attempt._in_transaction is None:
                    await attempt.complete_async(result)
        value: T = attempt.value
        return value

    def __repr__(self) -> str:
        return f"Guard(operation={self.operation!r}, effect={self.effect!r})"


def _number(value: Seconds) -> Union[float, int]:
    return value.total_seconds() if isinstance(value, datetime.timedelta) else value
