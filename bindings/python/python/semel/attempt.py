"""One execution under a claim."""

from __future__ import annotations

import contextvars
import json
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Callable, Optional, TypeVar

from . import _json, _semel, _wait
from .errors import Error, Final, InvalidArgument, NotApplied, Refused, ResultNotStored

T = TypeVar("T")

_current: contextvars.ContextVar[Optional[Attempt]] = contextvars.ContextVar(
    "semel_attempt", default=None
)


def current_attempt() -> Attempt:
    """The attempt under which this code runs.

    Raises:
        InvalidArgument: it runs under none.
    """
    attempt = _current.get()
    if attempt is None:
        raise InvalidArgument("no guarded function is running here; there is no current attempt")
    return attempt


class Attempt:
    """One execution under a claim, or the answer of one that finished before.

    Made by :meth:`semel.Guard.attempt`. In the ``with`` block look at :attr:`replayed` first: if
    it is true the operation is finished, and :attr:`value` is its answer. Otherwise do the work
    and call :meth:`complete`; a block that ends without it stores ``None``, and one that raises
    ends the claim as the exception says:

    * :class:`semel.NotApplied`: nothing happened, the key is free again;
    * :class:`semel.Final`: a refusal that is stored;
    * any other: unknown, and the effect mode decides.
    """

    def __init__(self, guard: Any, tenant: str, key: str, payload: str) -> None:
        self._guard = guard
        self._names = (tenant, key, payload)
        self._claim: Optional[_semel.Attempt] = None
        self._token: Optional[contextvars.Token[Optional[Attempt]]] = None
        self._is_over = False
        self._in_transaction: Optional[str] = None
        self.replayed = False
        """Whether the answer comes from the store."""
        self.expires_at: Optional[float] = None
        """When the record expires, in seconds since 1970; known once it is finished."""
        self._value: Any = None

    # --- what a body needs ---------------------------------------------------------------------

    @property
    def value(self) -> Any:
        """The answer, once there is one."""
        return self._value

    @property
    def attempts(self) -> int:
        """How many claims this operation has seen, this one included."""
        return self._held().attempts

    @property
    def fence(self) -> int:
        """A number higher than that of every earlier claim of this key, for sinks that compare."""
        return self._held().fence

    @property
    def key(self) -> str:
        """The key."""
        return self._names[1]

    @property
    def tenant(self) -> str:
        """Whose key it is."""
        return self._names[0]

    @property
    def lease_lost(self) -> bool:
        """Whether the claim is lost. Stop when it is true: no outcome of it will be kept."""
        return self._held().lease_lost

    def on_lease_lost(self, callback: Callable[[], object]) -> None:
        """Call back, from another thread, when the claim is lost. ``event.set`` is a good one."""
        self._held().on_lease_lost(callback)

    def step_key(self, name: str) -> str:
        """The key of a named part: equal across attempts, different for each name.

        Hand it to the downstream as its idempotency key.
        """
        return self._held().step_key(name)

    def step(self, name: str, function: Callable[[], T]) -> T:
        """Run a part and store its result, or return what an earlier attempt stored.

        Names are unique within the operation and stable across releases. Only the one step in
        flight can ever run again.
        """
        claim = self._held()
        stored = claim.step_result(name)
        if stored is None:
            stored = _step_json(name, function())
            _wait.blocking(claim.store_step(name, stored))
        value: T = json.loads(stored)
        return value

    async def step_async(self, name: str, function: Callable[[], Awaitable[T]]) -> T:
        """:meth:`step` for a coroutine function."""
        claim = self._held()
        stored = claim.step_result(name)
        if stored is None:
            stored = _step_json(name, await function())
            await _wait.awaiting(claim.store_step(name, stored))
        value: T = json.loads(stored)
        return value

    # --- how it ends ---------------------------------------------------------------------------

    def complete(self, value: Any = None) -> Any:
        """Store the answer. Returns what every caller gets: the winner's, if this one was late."""
        return self._ended(_wait.blocking(self._completing(value)))

    async def complete_async(self, value: Any = None) -> Any:
        """:meth:`complete` for coroutines."""
        return self._ended(await _wait.awaiting(self._completing(value)))

    def complete_in(self, cursor: Any, value: Any = None) -> Any:
        """Store the answer in the caller's own transaction: effect and record, or neither.

        ``cursor`` is anything of psycopg (2 or 3) with ``execute``, on the database of the
        ``postgres://`` store, in the transaction that holds the effect. Call it last, then commit,
        before the ``with`` block of the attempt ends.
        """
        stored = _result_json(value)
        sql, values = _wait.blocking(self._held().statement(stored))
        made = cursor.execute(sql, values)
        row = (cursor if hasattr(cursor, "fetchone") else made).fetchone()
        if row is None:
            raise NotApplied(
                "the claim is lost, so its answer cannot be stored; roll the transaction back"
            )
        self._in_transaction = stored
        return json.loads(stored)

    def hold(self, detail: str) -> None:
        """Park the record until somebody resolves it, whatever the effect mode says."""
        self._is_over = True
        _wait.blocking(self._held().hold(detail))

    # --- the blocks ----------------------------------------------------------------------------

    def __enter__(self) -> Attempt:
        self._begun(_wait.blocking(self._guard.begin(*self._names)))
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        pending = self._leaving(error)
        if pending is not None:
            try:
                answer = _wait.blocking(pending)
            except Error as failure:
                raise failure from error
            self._left(answer, error)

    async def __aenter__(self) -> Attempt:
        self._begun(await _wait.awaiting(self._guard.begin(*self._names)))
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        pending = self._leaving(error)
        if pending is not None:
            try:
                answer = await _wait.awaiting(pending)
            except Error as failure:
                raise failure from error
            self._left(answer, error)

    def _begun(self, answer: Any) -> None:
        if isinstance(answer, _semel.Replay):
            self._replay(answer)
            self._is_over = True
        else:
            self._claim = answer
            self._token = _current.set(self)

    def _leaving(self, error: Optional[BaseException]) -> Optional[_semel.Pending]:
        """What is still to be said when the block ends."""
        if self._token is not None:
            _current.reset(self._token)
            self._token = None
        if self._is_over:
            return None
        self._is_over = True
        claim = self._held()
        if self._in_transaction is not None:
            return claim.committed()
        if isinstance(error, Final):
            try:
                return claim.refuse(_result_json(error.answer))
            except ResultNotStored as failure:
                return claim.unknown(str(failure))
        if isinstance(error, NotApplied):
            return claim.not_applied()
        if error is None and self._guard.effect == "transactional":
            return claim.unknown("the effect is transactional, and complete_in was not called")
        if error is None:
            return claim.complete("null")
        # The class, and nothing that could hold a payload.
        return claim.unknown(f"the function raised {type(error).__name__}")

    def _left(self, answer: Any, error: Optional[BaseException]) -> None:
        """Raise what the caller must hear instead of the body's own exception, if anything."""
        if isinstance(answer, _semel.Replay):
            self._replay(answer)
        elif answer is not None:
            self.expires_at = answer
            if self._in_transaction is not None:
                self._value = json.loads(self._in_transaction)
        elif error is None:
            raise ResultNotStored(
                "the function ran, and its answer is not stored: in the effect mode transactional "
                "call complete_in and commit before the attempt ends",
                held=self._guard.effect == "hold",
            )
        if isinstance(error, Final):
            raise Refused(
                "the operation ends with a refusal that is stored",
                answer_json=json.dumps(error.answer),
            ) from error

    def _completing(self, value: Any) -> _semel.Pending:
        if self._guard.effect == "transactional":
            raise ResultNotStored(
                "the effect mode is transactional: the answer is stored by complete_in, in the "
                "transaction that holds the effect"
            )
        stored = _result_json(value)
        claim = self._held()
        self._is_over = True
        self._value = json.loads(stored)
        return claim.complete(stored)

    def _ended(self, answer: Any) -> Any:
        if isinstance(answer, _semel.Replay):
            self._replay(answer)
        elif answer is not None:
            self.expires_at = answer
        return self._value

    def _replay(self, answer: _semel.Replay) -> None:
        self.replayed, self.expires_at = True, answer.expires_at
        self._value = json.loads(answer.json)

    def _held(self) -> _semel.Attempt:
        if self._claim is None:
            raise InvalidArgument(
                "there is no claim: use the attempt in its `with` block, and look at `replayed` "
                "first"
            )
        return self._claim


def _result_json(value: Any) -> str:
    try:
        return _json.dumped("result", value)
    except InvalidArgument as error:
        raise ResultNotStored(f"the function ran, and its result cannot be stored: {error}") from (
            error.__cause__
        )


def _step_json(name: str, value: Any) -> str:
    try:
        return _json.dumped(f"result of step `{name}`", value)
    except InvalidArgument as error:
        message = f"the step ran, and its result cannot be stored: {error}"
        raise ResultNotStored(message) from error.__cause__
