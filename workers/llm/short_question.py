"""Whose an error is: a short question, asked while a document's error looks like everybody's.

Firewalls dislike what some documents say, keys have no right to what some requests need, money does for small requests
only. So what would stop a whole run is one document's affair as long as the model answers others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from workers.llm.answers.errors import Kind, Verdict

PAUSES = (0.5, 2.0)
"""Seconds before a short question is asked again whose own failure may pass."""


class ShortQuestion:
    """Asks one at a time. All that wait when it goes out share its answer; whoever comes later waits for the next."""

    def __init__(self, ask: Callable[[], Awaitable[Verdict | None]]) -> None:
        self._ask = ask
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[Verdict | None] | None = None

    async def ask(self) -> Verdict | None:
        """None when a short question that went out after this call is answered, else what is wrong."""
        if self._next is None:
            self._next = asyncio.create_task(self._in_turn())
        return await asyncio.shield(self._next)

    async def _in_turn(self) -> Verdict | None:
        async with self._turn:
            self._next = None
            found = await self._ask()
            for pause in PAUSES:
                if found is None or found.kind is not Kind.TRANSIENT:
                    break
                await asyncio.sleep(pause)
                found = await self._ask()
            return found
