"""What the guard promises to functions, on a SQLite file and in memory."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import semel


@pytest.fixture
def url(tmp_path):
    return f"sqlite:{tmp_path / 'semel.db'}"


def guard(url, effect="keyed", **settings):
    return semel.Guard(url, operation="charge", effect=effect, **settings)


def test_a_function_runs_once_and_every_caller_gets_one_value(url):
    runs = []

    def charge():
        runs.append(1)
        return {"pair": (1, 2)}

    values = [guard(url).run("k", {"amount": 100}, charge) for _ in range(3)]
    assert len(runs) == 1
    assert values == [{"pair": [1, 2]}] * 3


def test_another_payload_is_refused_whatever_its_order(url):
    g = guard(url)
    g.run("k", {"a": 1, "b": 2}, lambda: 1)
    assert g.run("k", {"b": 2, "a": 1}, lambda: 2) == 1
    with pytest.raises(semel.PayloadMismatch) as refused:
        g.run("k", {"a": 1, "b": 3}, lambda: 2)
    assert refused.value.decision == "dead-letter"
    assert not refused.value.outcome_unknown


def test_a_payload_that_is_not_json_is_refused_before_anything_runs(url):
    runs = []
    for payload in (object(), float("nan"), {1, 2}):
        with pytest.raises(semel.InvalidArgument, match="payload is not JSON"):
            guard(url).run("k", payload, lambda: runs.append(1))
    assert not runs


def test_a_result_that_is_not_json_is_said_to_have_run(url):
    g = guard(url, effect="hold")
    with pytest.raises(semel.ResultNotStored, match="ran") as failed:
        g.run("k", None, object)
    assert failed.value.outcome_unknown
    with pytest.raises(semel.OutcomeUnknown) as held:
        g.run("k", None, lambda: 1)
    assert held.value.held
    assert held.value.decision == "park"


def fail(error):
    raise error


def test_an_exception_goes_on_and_the_mode_decides(url):
    with pytest.raises(KeyError):
        guard(url, effect="hold").run("held", None, lambda: fail(KeyError("x")))
    with pytest.raises(semel.OutcomeUnknown):
        guard(url, effect="hold").run("held", None, lambda: 1)
    with pytest.raises(KeyError):
        guard(url).run("keyed", None, lambda: fail(KeyError("x")))
    assert guard(url).run("keyed", None, lambda: semel.current_attempt().attempts) == 2


def test_what_provably_did_nothing_frees_the_key(url):
    g = guard(url, effect="hold")
    with pytest.raises(semel.NotApplied) as proven:
        g.run("k", None, lambda: fail(semel.NotApplied("refused the connection")))
    assert proven.value.retryable
    assert g.run("k", None, lambda: semel.current_attempt().attempts) == 1


def test_a_refusal_is_stored_and_given_to_everybody(url):
    for _ in range(2):
        with pytest.raises(semel.Refused) as refused:
            guard(url).run("k", None, lambda: fail(semel.Final({"declined": True})))
        assert refused.value.answer == {"declined": True}


def test_a_duplicate_of_a_running_call_is_told_so_or_waits(url):
    begun, go = threading.Event(), threading.Event()

    def slow():
        begun.set()
        go.wait(30)
        return "slow"

    values = []
    thread = threading.Thread(target=lambda: values.append(guard(url).run("k", None, slow)))
    thread.start()
    begun.wait(30)
    with pytest.raises(semel.InFlight) as busy:
        guard(url).run("k", None, lambda: "other")
    assert busy.value.retry_after == 1
    threading.Timer(0.2, go.set).start()
    assert guard(url, wait=30).run("k", None, lambda: "other") == "slow"
    thread.join()
    assert values == ["slow"]


def test_steps_keep_their_results_and_keys_over_attempts(url):
    seen = []

    def work(fails):
        attempt = semel.current_attempt()
        first = attempt.step("one", lambda: seen.append("one") or [1])
        seen.append(attempt.step_key("one"))
        if fails:
            raise OSError
        return first

    with pytest.raises(OSError):  # noqa: PT011
        guard(url).run("k", None, lambda: work(True))
    assert guard(url).run("k", None, lambda: work(False)) == [1]
    assert seen.count("one") == 1
    assert len(set(seen)) == 2


def test_a_body_that_holds_the_interpreter_keeps_its_lease(url):
    g = guard(url, lease=0.5)

    def busy():
        sys.setswitchinterval(100)
        try:
            end = time.monotonic() + 2
            while time.monotonic() < end:
                pass
        finally:
            sys.setswitchinterval(0.005)
        return semel.current_attempt().lease_lost

    assert g.run("k", None, busy) is False


def test_a_fence_rises_and_a_late_owner_gets_the_winner_s_answer(url):
    with guard(url, lease=0.2, execution_max=0.3).attempt("k") as late:
        lost = threading.Event()
        late.on_lease_lost(lost.set)
        assert lost.wait(30)
        assert late.lease_lost
        deadline = time.monotonic() + 30
        while True:
            try:
                with guard(url).attempt("k") as winner:
                    assert winner.fence > late.fence
                    winner.complete("winner")
                break
            except semel.InFlight:
                assert time.monotonic() < deadline
        assert late.complete("late") == "winner"


def test_contradicting_settings_and_bad_names_are_refused_at_once():
    with pytest.raises(semel.SettingsError, match="retention"):
        guard("memory:", retention=1, retry_window=2)
    with pytest.raises(semel.InvalidArgument, match="hold"):
        guard("memory:", effect="maybe")
    with pytest.raises(semel.InvalidArgument, match="sqlite"):
        guard("mysql://x")
    with pytest.raises(semel.InvalidArgument, match="key"):
        guard("memory:").run("two words", None, lambda: 1)
    with pytest.raises(TypeError):
        guard("memory:", leese=1)


def test_a_store_that_is_down_is_tried_again_at_the_next_call():
    g = guard("redis://127.0.0.1:1/0", store_patience=0.2)
    with pytest.raises(semel.StoreUnavailable) as down:
        g.run("k", None, lambda: 1)
    assert not down.value.outcome_unknown
    assert down.value.retryable


def test_coroutines_run_once_beside_a_blocked_event_loop(url):
    g = guard(url, lease=0.5)
    runs = []

    async def work():
        runs.append(1)
        time.sleep(2)
        await asyncio.sleep(0)
        return await semel.current_attempt().step_async("one", value)

    async def value():
        return "done"

    async def main():
        first = await g.run_async("k", None, work)
        both = await asyncio.gather(*(g.run_async("k", None, work) for _ in range(20)))
        return {first, *both}

    assert asyncio.run(main()) == {"done"}
    assert len(runs) == 1


def test_a_cancelled_wait_leaves_nothing_behind(url):
    async def main():
        async with guard(url).attempt("k") as holder:
            waiting = asyncio.create_task(guard(url, wait=60).run_async("k", None, None))
            await asyncio.sleep(0.2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await holder.complete_async(1)

    asyncio.run(main())


def test_the_decorator_finds_key_payload_and_tenant(url):
    runs = []

    @semel.idempotent(store=url, effect="keyed", key="order.id", tenant="who")
    def place(order, who="a", note=""):
        """Place an order."""
        runs.append(order["id"])
        return order["id"]

    assert place({"id": 17}) == place(order={"id": 17}) == 17
    assert place({"id": 17}, who="b") == 17
    assert runs == [17, 17]
    assert place.__doc__ == "Place an order."
    with pytest.raises(semel.PayloadMismatch):
        place({"id": 17}, note="other")
    with pytest.raises(semel.InvalidArgument, match="order.id"):
        place({})
    with pytest.raises(semel.SettingsError, match="odrer"):
        semel.idempotent(store=url, effect="keyed", key="odrer.id")(place)
    with pytest.raises(semel.SettingsError, match="effect"):
        semel.idempotent(store=url, key="order.id")


def test_the_decorator_takes_coroutine_functions_and_a_data_argument(url):
    runs = []

    @semel.idempotent(
        store=url, effect="keyed", data_keyword_argument="event", expires_after_seconds=60
    )
    async def handle(event, request_id):
        runs.append(request_id)
        return event["x"]

    async def main():
        return [await handle({"x": 1}, n) for n in range(3)]

    assert asyncio.run(main()) == [1, 1, 1]
    assert runs == [0]


SCRIPT = """
import os, sys, time, semel
g = semel.Guard(sys.argv[1], operation="charge", effect="keyed", lease=30, wait=30)
"""


def script(body, url, **options):
    command = [sys.executable, "-c", SCRIPT + body, url]
    # Whoever runs the tests in the background ignores the signal, and the child would as well.
    options.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_ctrl_c_ends_a_wait_and_the_interpreter_ends_at_once(url):
    with guard(url).attempt("k") as holder:
        child = script("print('up', flush=True)\ng.run('k', None, lambda: 1)", url)
        child.stdout.readline()
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = child.communicate(timeout=30)
        assert b"KeyboardInterrupt" in err
        assert time.monotonic() - began < 5
        holder.complete(1)


def test_an_attempt_left_open_at_the_end_of_a_program_is_unknown_at_once(url):
    body = "with g.attempt('k') as a:\n    sys.exit(3)"
    assert script(body, url).wait(30) == 3
    assert guard(url).run("k", None, lambda: semel.current_attempt().attempts) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_forked_after_import_has_a_client_of_its_own(url):
    body = """
pids = [os.fork() for _ in range(1)]
value = g.run('k', None, lambda: os.getpid())
if 0 in pids: print(value, flush=True); os._exit(0)
os.wait(); print(value, flush=True)
"""
    out, err = script(body, url).communicate(timeout=60)
    assert len(set(out.split())) == 1, (out, err)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_sqlite_store_that_was_open_before_a_fork_is_refused_in_the_child(url):
    body = """
g.run('k', None, lambda: 1)
if os.fork() == 0:
    try: g.run('k', None, lambda: 1)
    except semel.SettingsError as e: print('refused', flush=True)
    os._exit(0)
os.wait()
"""
    out, err = script(body, url).communicate(timeout=60)
    assert out.strip() == b"refused", (out, err)
