"""Documents by the thousand, made up in microseconds each."""

from __future__ import annotations

import random
from collections.abc import Iterator

_SYNTHETIC_STOCK_BYTES = 1 << 16
_VOCABULARY = (
    "order invoice delivery customer refund account password login payment shipping address parcel damaged missing "
    "urgent question answer support agent ticket product version update error crash screen button page report export "
    "file upload download network server timeout request response contract renewal price discount plan team user late "
    "access security backup restore meeting schedule summary please thanks because although before after during every "
    "never always today tomorrow yesterday the a an this that is was will can should it we they you and or but with "
)


def synthetic_documents(count: int, size: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` documents as (key, content), each of `size` ASCII bytes (at least its first line, about 45) and unique.

    The same arguments give the same documents. One takes microseconds: a numbered first line, then a stretch of a text
    that is made once.
    """
    chooser = random.Random(seed)
    vocabulary = _VOCABULARY.split()
    words: list[str] = []
    length = 0
    while length < _SYNTHETIC_STOCK_BYTES + size:
        words.append(chooser.choice(vocabulary))
        if len(words) % 12 == 0:
            words[-1] += ".\n"
        length += len(words[-1]) + 1
    stock = " ".join(words).encode()
    for number in range(count):
        head = b"Document %08d of the synthetic corpus %d.\n" % (number, seed)
        start = chooser.randrange(_SYNTHETIC_STOCK_BYTES)
        yield f"documents/{number:08d}.txt", head + stock[start : start + max(0, size - len(head))]
