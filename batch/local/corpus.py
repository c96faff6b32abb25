"""Documents to try things on: real ones that every machine has, and their way into S3.

They are the README texts that installed Python distributions carry in their metadata: written by people, in
Markdown, reStructuredText and plain text, from a line to a small book.
"""

from __future__ import annotations

import ast
import asyncio
import email
import hashlib
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

MINIMUM_DEMO_DOCUMENTS = 80
_OWN_DISTRIBUTION = "docbatch"
_SHORTEST_DOCUMENT = 20  # characters; some distributions say "UNKNOWN" or only their name


@dataclass(frozen=True)
class Uploaded:
    """What an upload put into the bucket."""

    documents: int
    bytes: int


def demo_documents(minimum: int = MINIMUM_DEMO_DOCUMENTS) -> Iterator[tuple[str, bytes]]:
    """Real documents as (key, UTF-8 content), the same ones in the same order on every call: `readmes/aiohttp.md`.

    All distributions' READMEs; where they are fewer than `minimum`, also license texts and then the docstrings of the
    standard library's modules. No two have the same content.
    """
    installed = _installed_distributions()
    count = 0
    seen: set[bytes] = set()
    for texts in (_readmes(installed), _licenses(installed), _standard_library_docstrings()):
        for key, text in texts:
            content = text.strip().encode() + b"\n"
            digest = hashlib.sha256(content).digest()
            if len(content) > _SHORTEST_DOCUMENT and digest not in seen:
                seen.add(digest)
                count += 1
                yield key, content
        if count >= minimum:
            return


def upload(
    environment: Mapping[str, str],
    bucket: str,
    prefix: str,
    documents: Iterable[tuple[str, bytes]],
    *,
    concurrency: int = 64,
) -> Uploaded:
    """`upload_async` for callers without an event loop."""
    return asyncio.run(upload_async(environment, bucket, prefix, documents, concurrency=concurrency))


async def upload_async(
    environment: Mapping[str, str],
    bucket: str,
    prefix: str,
    documents: Iterable[tuple[str, bytes]],
    *,
    concurrency: int = 64,
) -> Uploaded:
    """Put documents under `prefix` of a bucket, `concurrency` at a time, reading the iterable as it goes.

    `environment` names endpoint and credentials as `LocalStack.environment()` does; nothing else is looked at, so that
    demo documents never land in a real account. (A proxy set without `NO_PROXY` is still used; a stack that starts in
    this process sets that.)
    """
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        bucket,
        endpoint=environment["AWS_ENDPOINT_URL_S3"],
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region=environment["AWS_REGION"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    folder = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    waiting = iter(documents)  # shared: each task takes the next one
    sizes: list[int] = []

    async def put_next() -> None:
        for key, content in waiting:
            await obstore.put_async(store, folder + key, content, use_multipart=False)
            sizes.append(len(content))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(put_next())
    return Uploaded(len(sizes), sum(sizes))


def _installed_distributions() -> list[tuple[str, Distribution]]:
    """(normalized name, distribution), sorted, each name once: the first on the path is the one that is imported."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name and name != _OWN_DISTRIBUTION:
            found.setdefault(name, distribution)
    return sorted(found.items())


def _readmes(installed: list[tuple[str, Distribution]]) -> Iterator[tuple[str, str]]:
    for name, distribution in installed:
        # Not distribution.metadata: its type knows no body, and old metadata keeps the text in a header instead.
        message = email.message_from_string(
            distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        )
        body = message.get_payload()
        text = body if isinstance(body, str) and body.strip() else message.get("Description", "")
        kind = message.get("Description-Content-Type", "")
        yield f"readmes/{name}.{'md' if kind.startswith('text/markdown') else 'txt'}", text


def _licenses(installed: list[tuple[str, Distribution]]) -> Iterator[tuple[str, str]]:
    for name, distribution in installed:
        for file in sorted(distribution.files or []):
            if re.match(r"(LICEN[CS]E|COPYING|NOTICE)", file.name, re.IGNORECASE) and file.suffix != ".py":
                path = Path(str(file.locate()))
                if path.is_file():
                    yield f"licenses/{name}-{file.name}.txt", path.read_text(errors="replace")


def _standard_library_docstrings() -> Iterator[tuple[str, str]]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            text = ast.get_docstring(ast.parse(path.read_bytes()))
        except (SyntaxError, ValueError):
            continue
        if text:
            yield f"docstrings/{path.stem}.txt", text
