"""A key comes back in no form from what a provider says."""

from __future__ import annotations

import base64
from urllib.parse import quote

import orjson
import pytest

from workers.llm.transport.secrets import Secrets

KEY = "sk-proj-AbC/d+e_1234567890"


def secrets(*known: str) -> Secrets:
    found = Secrets()
    for each in known:
        found.add(each)
    return found


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        f"Bearer {KEY}",
        quote(KEY, safe=""),
        quote(KEY, safe="").lower(),
        KEY.encode().hex(),
        *(base64.b64encode(f"{user}{KEY}".encode()).decode() for user in ("", "a", "ab", "user:")),
        *(base64.urlsafe_b64encode(f"{user}{KEY}:x".encode()).decode() for user in ("", "a", "ab", "user:")),
    ],
)
def test_a_key_in_any_form_is_taken_out(form: str) -> None:
    cleaned = secrets(KEY).clean(f"wrong key '{form}', sorry")
    assert cleaned.startswith("wrong key '") and cleaned.endswith("', sorry")
    assert "[key]" in cleaned and form not in cleaned
    for piece in (KEY[8:16], base64.b64encode(KEY.encode()).decode()[6:20]):
        assert piece not in cleaned


def test_every_occurrence_and_every_former_key_is_taken_out() -> None:
    assert secrets(KEY, "another-key-of-old").clean(f"{KEY} {KEY} another-key-of-old") == "[key] [key] [key]"


def test_what_is_masked_stays_and_so_do_words_that_are_no_secrets() -> None:
    text = "sk-proj-AbC****7890: none of the field's keys"
    assert secrets(KEY, "none", "field").clean(text) == text
    assert secrets("lm-studio").clean("lm-studio serves it") == "lm-studio serves it"


def test_a_key_behind_json_escapes_is_taken_out_of_the_value() -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
    raw = f'{{"error": {{"{escaped}": ["{escaped}", 1, null]}}}}'.encode()
    found = secrets(KEY)
    assert found.clean_bytes(raw) == raw
    assert found.clean_json(raw, orjson.loads(raw)) == {"error": {"[key]": ["[key]", 1, None]}}


def test_what_nests_too_deep_to_be_looked_through_is_nothing() -> None:
    raw = b'{"a": "\\/", "b": ' + b"[" * 1000 + b"]" * 1000 + b"}"
    assert secrets(KEY).clean_json(raw, orjson.loads(raw)) is None


def test_a_long_run_of_base64_is_looked_through_once() -> None:
    run = b"A" * 5_000_000 + base64.b64encode(KEY.encode()) + b"B" * 5_000_000
    assert secrets(KEY).clean_bytes(b'"' + run + b'"') == b'"[key]"'
