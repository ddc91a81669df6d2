"""``@semel.idempotent``: a function that takes effect once for each key."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping
from typing import Any, Callable, Optional, TypeVar, Union, cast

from . import _json, _semel
from .errors import InvalidArgument, SettingsError
from .guard import Guard, Seconds

F = TypeVar("F", bound=Callable[..., Any])

Chooser = Union[str, Callable[..., Any]]
"""Where a text comes from: a path such as ``"order.id"`` over the arguments, or a function that
gets the call's arguments."""


def idempotent(
    *,
    effect: Optional[str] = None,
    store: Optional[str] = None,
    guard: Optional[Guard] = None,
    key: Optional[Chooser] = None,
    payload: Optional[Chooser] = None,
    data_keyword_argument: Optional[str] = None,
    tenant: Optional[Chooser] = None,
    operation: Optional[str] = None,
    expires_after_seconds: Optional[Seconds] = None,
    **settings: Any,
) -> Callable[[F], F]:
    """Make a function (or a coroutine function) take effect once for each key.

    Args:
        effect: as for :class:`semel.Guard`; required unless ``guard`` is given.
        store: the store's URL.
        guard: a guard to share, instead of store, effect and settings.
        key: the key of a call: a path over the arguments (``"order.id"``: the argument ``order``,
            its item or attribute ``id``), or a function that gets the call's arguments. May be left
            out with ``data_keyword_argument``: the key is then a hash of that argument.
        payload: what must be the same in every retry, likewise. Default: the argument that
            ``data_keyword_argument`` names, or else all arguments.
        data_keyword_argument: the name of the argument that is the payload.
        tenant: whose key it is, likewise. Default: one name space for all.
        operation: a stable name; default: module and qualified name of the function.
        expires_after_seconds: how long an answer is kept (``retention``).
        settings: other settings of :class:`semel.Guard`.

    The function reaches its attempt with :func:`semel.current_attempt`.
    """
    if guard is not None and (store or effect or settings or operation or expires_after_seconds):
        raise SettingsError("give either `guard`, or `store`, `effect` and settings; not both")
    if guard is None and (store is None or effect is None):
        raise SettingsError("`store` and `effect` are required; the effect is never guessed")
    if key is None and data_keyword_argument is None:
        raise SettingsError("give `key`, or `data_keyword_argument` whose hash is then the key")

    def decorate(function: F) -> F:
        if guard is not None:
            made = guard
        else:
            if expires_after_seconds is not None:
                settings["retention"] = expires_after_seconds
            name = operation or f"{function.__module__}.{function.__qualname__}"
            made = Guard(cast(str, store), operation=name, effect=cast(str, effect), **settings)
        read = Reader(function, key, payload, data_keyword_argument, tenant)
        return cast(F, _wrapped(function, made, read))

    return decorate


def _wrapped(function: Callable[..., Any], guard: Guard, read: Reader) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            key, payload, tenant = read(args, kwargs)
            call = functools.partial(function, *args, **kwargs)
            return await guard.run_async(key, payload, call, tenant=tenant)

        return run_async

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        key, payload, tenant = read(args, kwargs)
        call = functools.partial(function, *args, **kwargs)
        return guard.run(key, payload, call, tenant=tenant)

    return run


class Reader:
    """Reads key, payload and tenant from the arguments of a call."""

    def __init__(
        self,
        function: Callable[..., Any],
        key: Optional[Chooser],
        payload: Optional[Chooser],
        data_keyword_argument: Optional[str],
        tenant: Optional[Chooser],
    ) -> None:
        self._signature = inspect.signature(function)
        self._key, self._payload, self._tenant = key, payload, tenant
        self._data = data_keyword_argument
        for path in (key, payload, data_keyword_argument, tenant):
            if isinstance(path, str):
                self._check(path, function)

    def __call__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, Any, Optional[str]]:
        """Key, payload and tenant."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        payload = self._payload_of(bound)
        if self._key is None:
            key = hashed(payload)
        else:
            key = text("key", self._chosen(self._key, bound))
        tenant = None if self._tenant is None else text("tenant", self._chosen(self._tenant, bound))
        return key, payload, tenant

    def _payload_of(self, bound: inspect.BoundArguments) -> Any:
        if self._payload is not None:
            return self._chosen(self._payload, bound)
        if self._data is not None:
            return self._chosen(self._data, bound)
        return {name: value for name, value in bound.arguments.items() if name != "self"}

    def _chosen(self, chooser: Chooser, bound: inspect.BoundArguments) -> Any:
        if callable(chooser):
            return chooser(*bound.args, **bound.kwargs)
        name, *rest = chooser.split(".")
        return found(bound.arguments[name], rest, chooser)

    def _check(self, path: str, function: Callable[..., Any]) -> None:
        name = path.split(".")[0]
        if name not in self._signature.parameters:
            known = ", ".join(self._signature.parameters)
            raise SettingsError(
                f"`{path}` does not begin with an argument of `{function.__qualname__}`: {known}"
            )


def found(value: Any, path: list[str], whole: str) -> Any:
    """What a path of items and attributes leads to."""
    for part in path:
        try:
            if isinstance(value, Mapping):
                value = value[part]
            elif isinstance(value, (list, tuple)):
                value = value[int(part)]
            else:
                value = getattr(value, part)
        except (LookupError, AttributeError, ValueError) as error:
            raise InvalidArgument(
                f"the call has nothing at `{whole}`, so it has no key; nothing ran"
            ) from error
    return value


def text(what: str, value: Any) -> str:
    """A key or tenant as a text. Numbers and UUIDs are texts enough; ``None`` is not."""
    if value is None or isinstance(value, (bool, float, bytes, dict, list, tuple, set)):
        kind = type(value).__name__
        raise InvalidArgument(f"the {what} of the call is of type {kind}; give a text or a number")
    return str(value)


def hashed(payload: Any) -> str:
    """A key for a payload that has none of its own."""
    canonical = _semel.canonical_json(_json.dumped("payload", payload))
    return "payload-" + hashlib.sha256(canonical.encode()).hexdigest()[:40]
