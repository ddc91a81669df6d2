"""Ways to wait for the thread that keeps claims alive: threads, greenlets and event loops."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Optional

from ._semel import Pending


def blocking(pending: Pending) -> Any:
    """Block this thread (or, under a patched gevent, this greenlet) until it is done."""
    hub = _gevent_hub()
    if hub is None:
        pending.wait()
    else:
        # A native thread waits, so the other greenlets of this one go on.
        try:
            hub.threadpool.apply(pending.wait)
        except BaseException:
            pending.cancel()
            raise
    return pending.result()


async def awaiting(pending: Pending) -> Any:
    """Wait without blocking the running event loop. Cancelled, a claim is given back."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def call() -> None:
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:
            # The loop is closed, and nobody waits any more.
            pending.cancel()

    if pending.on_done(call):
        try:
            await done.wait()
        except BaseException:
            pending.cancel()
            raise
    return pending.result()


def _gevent_hub() -> Optional[Any]:
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return None
    import gevent

    return gevent.get_hub()
