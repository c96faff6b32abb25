"""What a server takes for a model of the fields that docbatch adds to a request, found out by its first answers.

Only names are found out: a value that a job says, and a server refuses, is never left out in silence.
"""

from __future__ import annotations

import logging
import re
from typing import Any
from weakref import WeakKeyDictionary

from workers.llm.answers.json_text import written

LIMIT_FIELDS = ("max_completion_tokens", "max_tokens")
"""Names of the limit of an answer: OpenAI's, which its reasoning models insist on, and the older one, which many
servers know alone. https://platform.openai.com/docs/api-reference/chat/create#chat-create-max_completion_tokens"""

_UNKNOWN = re.compile(
    r"unrecogni[sz]ed|not recogni[sz]ed|unknown|unsupported|unexpected|extra_forbidden|extra(?:neous)? |not permitted|"
    r"not (?:yet )?supported|not allowed|(?:does not|doesn't) support|cannot find field|additional propert|"
    r"invalid (?:field|parameter|argument|request argument|property)|no such",
    re.IGNORECASE,
)
"""Of pydantic (422), Azure, Mistral, TGI (serde), Gemini, LiteLLM, Bedrock."""

log = logging.getLogger(__name__)


class Accepted:
    """What one server is known to take for one model, in this process."""

    def __init__(self) -> None:
        self.limit_field = LIMIT_FIELDS[0]
        self._answered = False

    def answered(self) -> None:
        """Notes an answer: the fields of its request are known."""
        self._answered = True

    def refuses_limit(self, status: int, body: Any) -> bool:
        """Tells whether an answer to a request with `max_completion_tokens` says that this is no name that it knows.

        Then the other one is taken from here on. A server that has answered the first name knows it.
        """
        if status not in (400, 422) or (self._answered and self.limit_field == LIMIT_FIELDS[0]):
            return False
        said = written(body)
        if LIMIT_FIELDS[0] not in said or not _UNKNOWN.search(said):
            return False
        if self.limit_field == LIMIT_FIELDS[0]:
            log.warning("the server does not know max_completion_tokens: it is asked with max_tokens from here on")
            self.limit_field = LIMIT_FIELDS[1]
        return True


_known: WeakKeyDictionary[object, dict[str, Accepted]] = WeakKeyDictionary()


def accepted_by(transport: object, model: str) -> Accepted:
    """Gives what is known of a model behind a transport, whoever asked."""
    return _known.setdefault(transport, {}).setdefault(model, Accepted())
