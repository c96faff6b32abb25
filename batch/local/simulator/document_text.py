"""What an answer can take from a document's text: its title, its sentences, its most frequent longer words."""

import re
import string
from collections import Counter
from functools import cached_property
from itertools import chain

# Characters of a document that are looked at, so that one of 25 MB costs no more than one of 4 KB.
TEXT_READ, WORDS_READ, SENTENCES_READ = 4096, 1024, 1024
_STOP_WORDS = """
    about above after again against along already also although always among another because before being below between
    both cannot could doing during either every first following further given having however itself might never other
    others quite rather second several shall should since still their theirs themselves there therefore these thing
    things third those though three through today under until using wants where whether which while whose within without
    would yours
"""
_STOPS = frozenset(_STOP_WORDS.split())
_PUNCTUATION = string.punctuation + "\u2013\u2014\u2018\u2019\u201c\u201d\u2026"
_SENTENCE = re.compile(r"[^\s.!?\u3002][^.!?\u3002\n]{3,398}[.!?\u3002]?")
_TAG = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^<>]{1,2000}>", re.DOTALL | re.IGNORECASE)
_HTML_HEADING = re.compile(r"<(title|h1|h2)\b[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_HEADING = re.compile(r"^(?:#{1,6}[ \t]+|(?:subject|title):[ \t]*)(\S.*)$", re.MULTILINE | re.IGNORECASE)
_MARKUP = re.compile(r"^[#>*+\-=\s|]+|[*`]+|\[([^\]]*)\]\([^)]*\)")
# A prompt usually opens with what to do; the document begins below it.
_INSTRUCTION = re.compile(
    r"(?:please|you are|your task|read|label|classify|summari[sz]e|extract|describe|analy[sz]e|answer|give|return|write"
    r"|translate|identify|list|tag|rate|tell|here|below|the following|document|text|input|ticket)\b.*[.:]$",
    re.IGNORECASE,
)


class Text:
    """What an answer can take from a document: its title, its sentences, and its most frequent longer words."""

    def __init__(self, raw: str, digest: bytes) -> None:
        self.seed = int.from_bytes(digest[:8], "big")
        self._head = raw[:TEXT_READ]

    @cached_property
    def _parts(self) -> tuple[str, str]:
        """Returns the title and what stands below it: the first heading, else the first line that is no instruction."""
        head = self._head
        if "</" in head:
            markup = _HTML_HEADING.search(head)
            if markup:
                return _clean(_TAG.sub(" ", markup[2]), 120), _TAG.sub("\n", head[markup.end() :])
            head = _TAG.sub("\n", head)
        heading = _HEADING.search(head)
        if heading:
            return _clean(heading[1], 120), head[heading.end() :]
        line, _, below = head.lstrip().partition("\n")
        for _ in range(4):
            if not _INSTRUCTION.match(line) or not below.strip():
                break
            line, _, below = below.lstrip().partition("\n")
        return _clean(line, 120), below if below.strip() else line

    @property
    def title(self) -> str:
        """Returns the title without markup, at most 120 characters."""
        return self._parts[0] or "Empty document"

    @cached_property
    def summary(self) -> str:
        """Returns the first sentence below the title, without markup and at most 300 characters."""
        first = _SENTENCE.search(self._parts[1])
        return (_clean(first[0], 300) if first else "") or self.title

    @cached_property
    def _sentences(self) -> list[str]:
        found = _SENTENCE.findall(self._parts[1][:SENTENCES_READ])
        return [sentence for each in found if (sentence := _clean(each, 300))] or [self.title]

    def sentence(self, place: int) -> str:
        """Returns one of the first sentences below the title."""
        return self._sentences[place % len(self._sentences)]

    @cached_property
    def words(self) -> list[str]:
        """Returns the most frequent longer words, lower case, most frequent first (never empty)."""
        counts = Counter(self._parts[1][:WORDS_READ].lower().split())
        often = [token for token, count in counts.items() if count > 1]
        often.sort(key=counts.__getitem__, reverse=True)
        words: dict[str, None] = {}
        for token in chain(often, counts):
            if len(token) > 4 and token not in _STOPS:
                word = token.strip(_PUNCTUATION)
                if 4 < len(word) < 25 and word not in _STOPS and word.isalpha():
                    words[word] = None
                    if len(words) == 8:
                        break
        return list(words) or ["document"]


def _clean(line: str, longest: int) -> str:
    return fit(" ".join(_MARKUP.sub(_label, line).split()), 0, longest)


def _label(markup: re.Match[str]) -> str:
    """Tells what is left of a piece of markup: the text of a link."""
    return markup[1] or ""


def fit(text: str, shortest: int, longest: int) -> str:
    """Text cut (between words where that is possible) or repeated to a length in bounds."""
    if len(text) > longest:
        cut = text[:longest]
        whole = cut.rpartition(" ")[0]
        return whole if len(whole) >= max(shortest, longest // 2, 1) else cut
    if len(text) < shortest:
        return ((text + " ") * (shortest // (len(text) + 1) + 1))[:shortest]
    return text
