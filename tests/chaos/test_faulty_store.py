"""A store that does all that stores were seen to do, and two kills: no row is ok whose text is not its object's."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from batch import Job
from batch.storage.store import Storage
from batch.workflows.states import State
from benchmarks.figures import Figure
from tests.chaos.harness import Chaos, measured, say
from tests.s3_faults import Etag, Faults, FaultyS3, Quirks

DOCUMENTS = 2000
ETAGS: tuple[Etag, ...] = (
    "md5", "md5", "md5", "constant", "constant-md5", "empty", "weak", "unquoted", "other-in-listing", "of-the-key",
)  # fmt: skip
HEADERS = (
    b'Content-Disposition: attachment; filename="\xc3\x9cbersicht.pdf"',
    b"x-amz-meta-author: M\xfcller",
    b"x-amz-meta-town: \xc3\x85s",
    b"Content-Encoding: aws-chunked",
)


def corpus(server: FaultyS3, count: int, dice: random.Random) -> dict[str, set[str]]:
    """Fills the bucket; the texts that each key ever had. One in ten has the bytes of another; one size is frequent."""
    texts: dict[str, set[str]] = {}
    for number in range(count):
        key = f"in/{dice.randrange(16**6):06x}-{number:05d}.txt"
        quirks = Quirks(etag=dice.choice(ETAGS))
        text = f"Ticket {number:05d}: the parcel of customer {dice.randrange(10**6):06d} did not come."
        fault = dice.random()
        if fault < 0.1:
            text, quirks.etag = f"The same words as many others, {number % 20:02d}.", dice.choice(("md5", "constant"))
        elif fault < 0.15:
            quirks.header = dice.choice(HEADERS)
        elif fault < 0.2:
            quirks.chunked = True
        elif fault < 0.23:
            quirks.archived = True
        elif fault < 0.24:
            quirks.forbidden = True
        elif fault < 0.29:
            quirks.becomes = (
                text.replace("did not", "did yes") if dice.random() < 0.5 else f"{text} Now it did."
            ).encode()
        elif fault < 0.33:
            quirks.listed_size = dice.randrange(1, 4000)
        server.put("mixed", key, text.encode(), quirks)
        texts[key] = {text} | ({quirks.becomes.decode()} if quirks.becomes else set())
    return texts


async def faulty_run(chaos: Chaos, monkeypatch: pytest.MonkeyPatch, *, documents: int, kills: int) -> None:
    with FaultyS3(seed=chaos.random.randrange(10**6)) as server:
        server.bucket(
            "mixed",
            Faults(region="eu-central-1", page=100, listing="no token", no_if_match=True, no_ranges=True, flaky=0.02),
        )
        server.bucket("results", Faults(no_bulk_delete=True, flaky=0.004))
        texts = corpus(server, documents, chaos.random)
        address = {"AWS_ENDPOINT_URL_S3": server.url, "AWS_REGION": "us-east-1"}
        for name, value in address.items():
            monkeypatch.setenv(name, value)
        worker = await chaos.worker("0", environment=address).start()
        chaos.provider(latency_median=0.15, latency_sigma=0.5)
        job = Job.parse(
            {
                "name": "faulty-store",
                "source": {"uri": "s3://mixed/in/"},
                "prompt": {"user": "Label this.\n{{ text }}"},
                "model": {"name": "simulated-small"},
                "output": {"uri": "s3://results/out/", "keep_text": True},
                "partitions": {"documents": 100},
                "limits": {"concurrency": 32, "max_error_rate": 1.0},
            }
        )
        run = await chaos.start(job)
        for _ in range(kills):
            await asyncio.sleep(chaos.random.uniform(1.0, 3.0))
            assert await chaos.kill_in_flight([worker], 8) is not None
            await worker.start()
        result = await chaos.wait(run, within=600)
        say(f"{result.state}: {result.documents} rows, {result.ok} ok, {result.errors_by_type}")
        rows = (await asyncio.to_thread(run.results().collect)).to_dicts()
        account = await chaos.verify(run)
        losses = chaos.losses()
        wrong = [row for row in rows if row["status"] == "ok" and row["text"] not in texts[row["document_id"]]]
        shared = [row for row in rows if row["same_as"] is not None]
        by_text = {row["document_id"]: row["text"] for row in rows}
        crossed = [row for row in shared if row["text"] != by_text[row["same_as"]]]
        left = await Storage().list_all("results", run.layout.ledgers)
        quirks = server.objects["mixed"]
        errors = Counter(row["error_type"] for row in rows if row["status"] == "error")
        astray = [
            row
            for row in rows
            if row["status"] == "error"
            and not (
                quirks[row["document_id"]].quirks.archived
                or quirks[row["document_id"]].quirks.forbidden
                or quirks[row["document_id"]].quirks.becomes is not None
                or quirks[row["document_id"]].quirks.listed_size is not None
            )
        ]
        for row in [*wrong, *crossed, *astray][:20]:
            say(f"astray: {row['document_id']} {quirks[row['document_id']].quirks} {row['error_message']}")
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(errors.items()))
        measured(
            "faulty_store",
            "A store with all faults at once",
            Figure("rows", len(rows), exactly=documents),
            Figure("documents with a row", len({row["document_id"] for row in rows}), exactly=documents),
            Figure("problems of the reconciliation", len(account.problems), exactly=0),
            Figure("ok rows with a text that is not their object's", len(wrong), exactly=0),
            Figure("shared answers", len(shared), at_least=1),
            Figure("shared answers of another text", len(crossed), exactly=0),
            Figure("ok rows", result.ok),
            Figure(f"error rows: {said}", sum(errors.values())),
            Figure("error rows of objects without a fault", len(astray), exactly=0),
            Figure("ledger segments left", len(left), exactly=0),
            Figure("kills", len(losses), exactly=kills),
            Figure("documents paid again by a kill", sum(loss.paid_again for loss in losses)),
            Figure(
                "more of them than a kill may cost", sum(loss.paid_again > loss.bound for loss in losses), exactly=0
            ),
        )
        assert result.state == State.COMPLETED_WITH_FAILURES


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_store_with_all_faults_and_two_kills(chaos: Chaos, monkeypatch: pytest.MonkeyPatch) -> None:
    await faulty_run(chaos, monkeypatch, documents=DOCUMENTS, kills=2)
