"""Documents of the same content: what is asked once for several of them, within a partition and beyond it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from batch.corpus.duplicates import reference
from batch.corpus.planning import PlannedDocument
from batch.storage.etags import is_proven, proves
from batch.storage.layout import bucket_and_key
from batch.workflows.states import Reason
from workers.documents.rows import Row, shared
from workers.extract import Extracted, Unreadable
from workers.partition.asker import Asker, Work
from workers.partition.attempt_stop import Stopped
from workers.partition.reader import hashed
from workers.partition.shared_answers import Content, SharedAnswers, content_of, is_usable, usable


class Sharing:
    """Gives documents the answers of others of the same content; asks about those for which there is none."""

    def __init__(self, work: Work, asker: Asker) -> None:
        self._work, self._asker = work, asker
        self._answered, self._reader, self._stop = work.answered, work.reader, work.stop
        self._origins: dict[str, bool] = {}
        """Of objects, by URI, whose answers others of the same etag share: whether that is the MD5 of their content."""

    async def share(self, documents: list[PlannedDocument]) -> None:
        """Makes the rows of documents whose content others have too, but where it is too early or stopped."""
        documents = await self._ask_unproven(documents)
        if not documents or self._stop.must():
            return
        elsewhere = await self._share_here(documents)
        if not elsewhere or self._stop.must():
            return
        work = self._work
        answers = SharedAnswers(work.storage, work.run.layout, work.name)
        here = reference(work.task.shard, work.task.partition)
        likes = [like for like in map(self._like, elsewhere) if like.same_as != here]
        found = await answers.find(likes, self._stop.must, work.ledger.mark)
        if found.too_early:
            if not self._stop.must():
                message = "documents share answers of partitions that are not committed yet"
                self._stop.because(Reason.AWAITS_ANSWERS, message)
            return
        left = []
        for document in elsewhere:
            row = found.rows.get(document.document_id)
            if row is not None and isinstance(row["processed_at"], str):  # of a ledger
                row = self._answered.restored(dict(row))
            if row is not None and await self._is_answer_to(row, document):
                self._keep(row, document)
            else:
                left.append(document)
        await self._ask_in_place_of_others(left)

    def _like(self, document: PlannedDocument) -> PlannedDocument:
        """The document as the one whose answer it shares."""
        return self._reader.likes.get(document.document_id, (document, ""))[0]

    def _content(self, document: PlannedDocument) -> Content:
        """By which the row that it shares is found."""
        like = self._like(document)
        return content_of(like.etag, like.uri)

    def _is_proven(self, document: PlannedDocument) -> bool:
        """Whether its etag is known to be of its content: a row's is its hash, a text's was found so when read."""
        return document.is_planned or document.document_id in self._reader.likes

    async def _ask_unproven(self, documents: list[PlannedDocument]) -> list[PlannedDocument]:
        """Those of whose etags it is known that they are of their content. Asks about the others.

        An etag that another document has too proves nothing: a store may give one to all. It is proof if it is the MD5
        of the bytes, so they are read.
        """
        proven = {document.document_id for document in documents if self._is_proven(document)}
        unread = [document for document in documents if document.document_id not in proven]
        room = self._work.run.room
        for group, sizes in self._reader.groups(unread):
            if not await room.enter(sum(sizes), len(group), turn=0, stopped=self._stop.must):
                break
            try:
                found = await self._reader.burst(group)
                for document, data in zip(group, found, strict=True):
                    with suppress(Unreadable, Stopped):
                        whole = data if isinstance(data, bytes) else (await self._reader.fetch(document))[0]
                        if await hashed(proves, whole, document.etag, whole):
                            proven.add(document.document_id)
            finally:
                room.leave(sum(sizes), len(group))
        if self._stop.must():
            return []
        await self._ask_themselves([document for document in documents if document.document_id not in proven])
        return [document for document in documents if document.document_id in proven]

    async def _ask_themselves(self, documents: list[PlannedDocument]) -> None:
        """Asks about documents that others' answers are of no use for."""
        self._reader.by_themselves.update(document.document_id for document in documents)
        if documents:
            await self._asker.ask(documents)

    async def _is_answer_to(self, row: Row, document: PlannedDocument) -> bool:
        """Whether a row is the answer to the content of a document, of whose own etag it is known that it is its MD5.

        A store may have given that etag to the other object too, whatever is in it: AWS does not; elsewhere the other
        one is read once more. What that one shared itself was looked at then.
        """
        known = self._is_proven(document) or row.get("same_as") is not None
        if known or is_proven(row["etag"], row.get("content_hash")):
            return True
        uri = row["uri"]
        if uri not in self._origins:
            other = PlannedDocument(row["document_id"], uri, row["etag"], document.size)
            try:
                if await self._work.storage.etags_are_versions(bucket_and_key(uri)[0]):
                    self._origins[uri] = True
                else:
                    data, _ = await self._reader.fetch(other)
                    self._origins[uri] = await hashed(proves, data, other.etag, data)
            except Unreadable:
                self._origins[uri] = False
            except Stopped:
                return False
        return self._origins[uri]

    async def _share_here(self, documents: Iterable[PlannedDocument]) -> list[PlannedDocument]:
        """Makes the rows of those whose answer is among this partition's own; gives the others."""
        here = usable(self._answered.rows.values())
        left = []
        for document in documents:
            row = here.get(self._content(document))
            if row is not None and await self._is_answer_to(row, document):
                self._keep(row, document)
            else:
                left.append(document)
        return left

    async def _ask_in_place_of_others(self, documents: list[PlannedDocument]) -> None:
        """Of documents whose answer nobody has: asks about the first of each content, and shares its answer."""
        self._reader.by_themselves.update(document.document_id for document in documents)
        firsts = {self._content(document): document for document in reversed(documents)}
        await self._asker.ask([*firsts.values()])
        left = []
        for document in documents:
            if document.document_id in self._answered.rows:
                continue
            first = self._answered.rows.get(firsts[self._content(document)].document_id)
            if first is not None and is_usable(first) and self._is_of(first, document):
                self._keep(first, document)
            else:
                left.append(document)
        await self._ask_themselves(left)

    def _is_of(self, row: Row, document: PlannedDocument) -> bool:
        """Whether the row is of the content that the document shares, and not of a version that came after it."""
        like = self._reader.likes.get(row["document_id"])
        if like is not None:
            return bool(row["etag"] == like[1])
        return content_of(row["etag"], row["uri"]) == self._content(document)

    def _keep(self, row: Row, document: PlannedDocument) -> None:
        """Another document's answer as this one's row.

        One of the same bytes is not in the ledger: another attempt finds it again, unpaid. One of the same text is, as
        others of its bytes may wait for it: they would wait for each other's commits.
        """
        made = shared(row, self._answered.maker, document)
        like = self._reader.likes.get(document.document_id)
        if like is not None:
            made |= {"etag": like[1], **Extracted("").counts}
            if self._work.run.file.job.incremental:
                made["content_hash"] = None
            made |= self._answered.columns.pop(document.document_id, {})
            self._answered.record(made)
        self._answered.keep(made)
