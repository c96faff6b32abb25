"""What an attempt has of its partition: a row for each document that has ended, and how an answer becomes one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from batch.corpus.planning import PlannedDocument
from batch.files import result_file
from batch.files.result_file import ERROR, OK
from batch.schema.answer_reader import InvalidAnswer
from batch.workflows import contracts as c
from workers.documents.long_documents import chunk_answer
from workers.documents.reading import row_answered
from workers.documents.rows import Row, RowMaker
from workers.llm.answer import Answer
from workers.llm.prices import Pricer, cost_of
from workers.observe.metrics import Metrics
from workers.partition.ledger import Ledger, Replayed
from workers.partition.runs import ActiveRun


class Answered:
    """The rows of one attempt. Those that it made itself go to the ledger too, but for what is found again unpaid."""

    def __init__(self, task: c.PartitionInput, run: ActiveRun, ledger: Ledger, metrics: Metrics) -> None:
        self._task, self._run, self._ledger, self._metrics = task, run, ledger, metrics
        keep = tuple(run.file.job.source.keep)
        self.maker = RowMaker(task.run.run_id, run.fingerprint, task.generation, task.shard, task.partition, keep)
        self.tally = result_file.Tally(task.run.run_id)
        self.rows: dict[str, Row] = {}
        self.chunks: dict[str, dict[str, Answer]] = {}
        """Of documents without a row: what the ledger holds of their chunks."""
        self.columns: defaultdict[str, Row] = defaultdict(dict)
        """Of documents without a row, which were read: the columns that are known before there is an answer."""

    def replay(self, documents: Iterable[PlannedDocument], replayed: Replayed) -> None:
        """Takes over those answers of the ledger that are of the planned documents' versions."""
        planned = {document.document_id: document for document in documents}
        count = 0
        for document_id, row in replayed.rows.items():
            document = planned.get(document_id)
            if document is None or document_id in self.rows:
                continue
            now = row["generation"] == self._task.generation
            same = row["etag"] == document.etag or not document.etag or row["generation"] > 1
            if (now or self.keeps(row)) and same:
                restored = self.restored(row)
                if restored is not None:
                    self.keep(restored)
                    count += 1
        self._metrics.ledger_replayed.inc(count)
        self.chunks = {
            document_id: {key: chunk_answer(row) for key, row in chunks.items()}
            for document_id, chunks in replayed.chunks.items()
            if document_id in planned and document_id not in self.rows
        }

    def keeps(self, row: Row) -> bool:
        """Whether a row of an earlier generation stands in this one."""
        request = self._task.rerun
        return row["status"] != ERROR or not (row["retryable"] or (request is not None and request.all_errors))

    def restored(self, row: Row) -> Row | None:
        """A ledger row with its typed result, which is read from the answer's text anew."""
        reader = self._run.chat.reader
        if reader is not None and row["status"] == OK:
            try:
                row["result"] = reader.read(row["output_text"])
            except InvalidAnswer:
                return None
        row["processed_at"] = datetime.fromisoformat(row["processed_at"])
        return row

    def row(self, document: PlannedDocument, etag: str, answer: Answer, price: Pricer | None = None) -> Row:
        """An ok row; `price`: another than that of online answers."""
        return self.made(document, etag, answer, cost_of(answer, price or self._run.price))

    def made(self, document: PlannedDocument, etag: str, answer: Answer, cost_usd: float | None) -> Row:
        """An ok row of an answer that cost so much, with the columns that were known before."""
        return self.maker.row(document, etag, answer, cost_usd) | self.columns.pop(document.document_id, {})

    def judged(self, document: PlannedDocument, etag: str, answer: Answer, price: Pricer | None = None) -> Row:
        """The row of an answer, which may be an error."""
        return row_answered(self.row(document, etag, answer, price), answer)

    def take(self, row: Row) -> None:
        """Takes the row of a document that was asked about, or cannot be."""
        self.keep(row)
        self.record(row)
        self._run.brakes.document(row["error_type"])
        self._metrics.answers(self._run.file.job.name, row["error_type"] or OK)

    def record(self, row: Row) -> None:
        """Writes a row into the ledger, without its typed result, which is read anew on replay."""
        self._ledger.add({name: value for name, value in row.items() if name != "result"})

    def keep(self, row: Row) -> None:
        """Takes a row that is durable elsewhere, or is about to be."""
        self.rows[row["document_id"]] = row
        self.tally.add(row)


def marked(row: Row, truncated: bool | None) -> Row:
    """The row of a document that was sent; `truncated`: whether only its beginning was, None where no job does so."""
    return row if truncated is None else {**row, "truncated": truncated}
