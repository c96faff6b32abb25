"""Servers that go away and come back: S3, Temporal, the provider. Ridden out without an error row; all paid once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
import time
from dataclasses import replace
from functools import partial

import pytest

from batch import Job
from batch.client.run import Run
from batch.storage.store import Storage
from batch.workflows.states import Reason, State
from benchmarks.figures import Figure
from tests.chaos.harness import TUNING, Chaos, measured, sampled, say
from tests.chaos.s3_proxy import Mode

HOLD_WITHIN = 5.0
"""Seconds after which no further call may be made while answers cannot be made durable."""


async def s3_away(chaos: Chaos, mode: Mode, seconds: float, *, documents: int) -> None:
    corpus = await chaos.corpus(documents)
    await chaos.start_workers("0", "1", proxied=True)
    chaos.provider(latency=0.25)
    run = await chaos.start(chaos.job(corpus, documents=40, concurrency=16))
    await chaos.until(lambda: chaos.journal.refresh().accepted() >= documents // 6, within=60)
    began = time.monotonic()
    chaos.proxy.set(mode)
    async with sampled(chaos.requests) as samples:
        await asyncio.sleep(seconds)
    chaos.proxy.set("pass")
    held = [value for at, value in samples if at > began + HOLD_WITHIN]
    before = [value for at, value in samples if at <= began + HOLD_WITHIN]
    say(
        f"S3 {mode} for {seconds:g} s: {before[-1] - before[0]} calls in the first {HOLD_WITHIN:g} s, then "
        f"{held[-1] - held[0]}"
    )
    assert held[-1] == held[0], "calls were made although no answer could be made durable"
    await chaos.complete(run, corpus, within=120 + seconds)
    again = sum(chaos.journal.refresh().paid_again().values())
    measured(
        chaos.test,
        f"S3 {'answers 503 to everything' if mode == '503' else 'refuses connections'} for {seconds:g} s in mid-run.",
        Figure("documents with one ok row", documents, exactly=len(corpus)),
        Figure(f"calls made later than {HOLD_WITHIN:g} s into it", held[-1] - held[0], exactly=0),
        Figure("documents paid again", again, exactly=0),
    )


@pytest.mark.soak
async def test_s3_answers_503_for_a_while(chaos: Chaos) -> None:
    await s3_away(chaos, "503", 6.5, documents=250)


@pytest.mark.soak
async def test_s3_refuses_connections_for_a_while(chaos: Chaos) -> None:
    await s3_away(chaos, "refuse", 9.0, documents=400)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["503", "refuse"])
async def test_s3_is_away_for_60_seconds(chaos: Chaos, mode: Mode) -> None:
    await s3_away(chaos, mode, 60.0, documents=4000)


@pytest.mark.soak
async def test_a_worker_that_starts_while_s3_is_away_gives_nothing_up(chaos: Chaos) -> None:
    """Its attempts cannot even read `run.json`; that is an outage, not a partition without progress."""
    corpus = await chaos.corpus(100)
    first = chaos.worker("0", proxied=True, slots=2)
    await first.start()
    chaos.provider(latency=0.5)
    run = await chaos.start(
        chaos.job(corpus, documents=25, concurrency=4), tuning=replace(TUNING, max_barren_attempts=2)
    )
    await chaos.until(lambda: chaos.journal.refresh().accepted() >= 8, within=30)
    chaos.proxy.set("refuse")
    await chaos.kill(first)
    await first.start()
    await asyncio.sleep(20)
    chaos.proxy.set("pass")
    await chaos.complete(run, corpus)


@pytest.mark.soak
async def test_storage_that_refuses_pauses_the_run_until_somebody_resumes_it(chaos: Chaos) -> None:
    """Rights taken away midway, for output and source. No waiting mends that, so the run says what it waits for."""
    corpus = await chaos.corpus(300)
    await chaos.start_workers("0", proxied=True)
    await chaos.start_workers("control", slots=1)
    chaos.provider(latency=0.5)
    run = await chaos.start(chaos.job(corpus, documents=30, concurrency=16))
    await chaos.until(lambda: chaos.journal.refresh().accepted() >= 60, within=60)
    chaos.proxy.set("403")
    began = time.monotonic()
    status = await chaos.until_status(run, lambda status: status.state == State.PAUSED, within=60)
    say(f"S3 answers 403: paused after {time.monotonic() - began:.1f} s: {status.reason}: {status.message}")
    assert status.reason in ("storage_refused", "source_refused")
    chaos.proxy.set("pass")
    await run.resume()
    await chaos.complete(run, corpus)


@pytest.mark.soak
async def test_an_output_bucket_that_goes_pauses_the_run(chaos: Chaos) -> None:
    corpus = await chaos.corpus(300)
    await chaos.start_workers("0")
    chaos.provider(latency=0.3)
    s3, bucket = chaos.stack.s3_client(), f"{chaos.queue}-vanishing"
    s3.create_bucket(Bucket=bucket)
    job = json.loads(chaos.job(corpus, documents=30, concurrency=16).to_json())
    job["output"]["uri"] = f"s3://{bucket}/out/"
    run = await chaos.start(Job.parse(job))
    await chaos.until(lambda: chaos.journal.refresh().accepted() >= 60, within=60)
    began = time.monotonic()

    def remove() -> None:
        while True:
            found = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
            for entry in found:
                s3.delete_object(Bucket=bucket, Key=entry["Key"])
            with contextlib.suppress(s3.exceptions.ClientError):
                s3.delete_bucket(Bucket=bucket)
                return

    await asyncio.to_thread(remove)
    say(f"bucket {bucket} is gone after {time.monotonic() - began:.1f} s")
    status = await chaos.until_status(run, lambda status: status.state == State.PAUSED, within=60)
    say(f"output bucket gone: paused after {time.monotonic() - began:.1f} s: {status.reason}: {status.message}")
    await asyncio.sleep(3)  # control.json went with the bucket: each partition finds out by its next flush
    calls = chaos.requests()
    await asyncio.sleep(3)
    assert chaos.requests() == calls
    await run.handle.terminate("chaos")


async def temporal_killed(chaos: Chaos, *, documents: int, kills: int, away: tuple[float, float]) -> None:
    corpus = await chaos.corpus(documents)
    await chaos.start_workers("0", "1")
    chaos.provider(latency_median=0.3, latency_sigma=0.5)
    run = await chaos.start(chaos.job(corpus, documents=40))
    bounds = 0.0

    def reached(target: int) -> bool:
        return chaos.journal.refresh().accepted() >= target

    for number in range(kills):
        target = documents * (number + 1) // (kills + 1)
        await chaos.until(partial(reached, target), within=120)
        if number == 0:
            await next_commit(run)  # whose completion is being reported just now
        at = time.time()
        chaos.stack.temporal.kill(signal.SIGKILL)
        await asyncio.sleep(chaos.random.uniform(*away))
        await asyncio.to_thread(chaos.stack.temporal.start)
        back = time.time()
        await asyncio.sleep(0.3)
        chaos.journal.refresh()
        losses = [chaos.journal.loss(worker.by, back, underway=0.0) for worker in chaos.workers.values()]
        bounds += sum(loss.bound for loss in losses)
        say(f"Temporal killed at {target} accepted, away for {back - at:.1f} s")
    await chaos.complete(run, corpus, within=180)
    again = sum(chaos.journal.refresh().paid_again().values())
    measured(
        chaos.test,
        f"Temporal's server killed (`kill -9`) {kills} times, away for up to {away[1]:g} s each time.",
        Figure("documents with one ok row", documents, exactly=len(corpus)),
        Figure("documents paid again", again, at_most=math.floor(bounds)),
    )


async def next_commit(run: Run) -> None:
    """Returns the moment that one more result file stands."""
    storage, layout = Storage(), run.layout
    before = len(await storage.list_all(layout.output.bucket, layout.results))
    while len(await storage.list_all(layout.output.bucket, layout.results)) == before:  # noqa: ASYNC110 - S3 tells nobody
        await asyncio.sleep(0.005)


@pytest.mark.soak
async def test_temporal_is_killed_and_comes_back(chaos: Chaos) -> None:
    """Once for less than the heartbeat timeout, so that no attempt is taken for dead; partitions complete meanwhile."""
    await temporal_killed(chaos, documents=900, kills=2, away=(0.0, 7.0))


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_temporal_is_killed_three_times(chaos: Chaos) -> None:
    await temporal_killed(chaos, documents=10_000, kills=3, away=(0.0, 20.0))


@pytest.mark.soak
async def test_a_run_without_quota_waits_for_somebody(chaos: Chaos) -> None:
    await provider_away(chaos, 0.0, documents=300, outage_after=60.0)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_the_provider_is_away_for_two_minutes_then_out_of_quota(chaos: Chaos) -> None:
    await provider_away(chaos, 120.0, documents=4000, outage_after=60.0)


async def provider_away(chaos: Chaos, seconds: float, *, documents: int, outage_after: float) -> None:
    corpus = await chaos.corpus(documents)
    environment = {"DOCBATCH_CHAOS_OUTAGE_AFTER": str(outage_after)}
    concurrency = 16
    await chaos.start_workers("0", "1", environment=environment)
    chaos.provider(latency=0.25)
    run = await chaos.start(chaos.job(corpus, documents=25, concurrency=concurrency))

    def accepted() -> int:
        return chaos.journal.refresh().accepted()

    await chaos.until(lambda: accepted() >= documents // 6, within=60)

    if seconds:
        chaos.provider(fail_all="drop")
        await asyncio.sleep(seconds)
        status = await run.status()
        say(f"provider away for {seconds:g} s: {status.state} {status.reason}")
        assert (status.state, status.reason) == (State.PAUSED, Reason.PROVIDER_UNREACHABLE)
        chaos.provider(fail_all=None)
        await chaos.until_status(run, lambda status: status.state == State.RUNNING, within=60)
        stood = accepted()
        await chaos.until(lambda: accepted() >= max(stood + 40, documents // 2), within=60)

    chaos.provider(fail_all="insufficient_quota")
    before = chaos.requests()
    began = time.monotonic()
    status = await chaos.until_status(run, lambda status: status.state == State.PAUSED, within=10)
    paused = time.monotonic() - began
    assert status.reason == "insufficient_quota"
    await asyncio.sleep(2.0)
    failing = chaos.requests() - before
    chaos.provider(fail_all=None)
    await asyncio.sleep(1.0)
    assert (await run.status()).state == State.PAUSED, "a run that waits for a person does not resume by itself"
    await run.resume()
    result = await chaos.complete(run, corpus)
    measured(
        chaos.test,
        f"The provider refuses connections for {seconds:g} s, then answers `insufficient_quota` until it is mended.",
        Figure("documents with one ok row", result.ok, exactly=documents),
        Figure("seconds from no quota to paused", paused, "s", at_most=10.0),
        Figure("failing calls for want of quota (two workers)", failing, at_most=4 * concurrency),
        Figure("documents paid again", sum(chaos.journal.paid_again().values()), exactly=0),
    )


@pytest.mark.soak
async def test_pause_and_cancel_by_hand(chaos: Chaos) -> None:
    """Pause: no new call after 10 s, what is in flight is kept. Cancel: the same; a rerun goes on."""
    corpus = await chaos.corpus(500)
    await chaos.start_workers("0", "1")
    chaos.provider(latency=0.5)
    run = await chaos.start(chaos.job(corpus, documents=25, concurrency=16))
    await chaos.until(lambda: chaos.journal.refresh().accepted() >= 60, within=60)

    await run.pause("a look at the prompt")
    last = await last_call(chaos, 10.0)
    after_pause = last
    status = await run.status()
    assert (status.state, status.message) == (State.PAUSED, "a look at the prompt")
    await run.resume()
    stood = chaos.requests()
    await chaos.until(lambda: chaos.requests() > stood + 30, within=30, every=0.2)

    await run.cancel()
    last = await last_call(chaos, 10.0)
    result = await chaos.wait(run)
    assert result.state == State.CANCELLED
    assert 0 < result.documents < len(corpus)
    await run.rerun(tuning=TUNING)
    await chaos.complete(run, corpus)
    measured(
        chaos.test,
        "A pause by hand, then a cancellation, then a rerun of the rest.",
        Figure("the last call after the pause", after_pause, "s", at_most=10.0),
        Figure("the last call after the cancellation", last, "s", at_most=10.0),
        Figure("documents paid again", sum(chaos.journal.refresh().paid_again().values()), exactly=0),
    )


async def last_call(chaos: Chaos, allowed: float) -> float:
    """Seconds until no more calls come; they are watched for 3 s beyond what is allowed at most."""
    began = time.monotonic()
    seen, last = chaos.requests(), 0.0
    while time.monotonic() - began < allowed + 3 and time.monotonic() - began - last < 5:
        await asyncio.sleep(0.1)
        now = chaos.requests()
        if now != seen:
            seen, last = now, time.monotonic() - began
    assert last <= allowed, f"a call came {last:.1f} s after the run was told to stop"
    return last
