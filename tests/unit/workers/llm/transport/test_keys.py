"""The key from variable, file or command, and how it is read anew."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from workers.llm.transport import keys as keys_module
from workers.llm.transport.keys import CredentialsMissing, Keys


async def test_a_key_in_a_variable_never_changes() -> None:
    keys = Keys({"OPENAI_API_KEY": "key-in-the-variable"})
    assert (keys.current, keys.identity) == ("key-in-the-variable", "key-in-the-variable")
    assert not await keys.renew("key-in-the-variable")


async def test_a_key_in_a_file_is_read_anew_when_it_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xef\xbb\xbffirst-key-of-file\r\n")
    keys = Keys({"OPENAI_API_KEY": "ignored", "OPENAI_API_KEY_FILE": str(file)})
    assert (keys.current, keys.identity) == ("first-key-of-file", str(file))
    file.write_text("second-key-of-file\n")
    assert await asyncio.gather(*(keys.renew("first-key-of-file") for _ in range(20))) == [True] * 20
    assert keys.current == "second-key-of-file"
    assert keys.secrets.clean("first-key-of-file second-key-of-file") == "[key] [key]", "former ones are secrets too"
    assert keys.identity == str(file), "a quota is the same whichever key is current"


async def test_a_command_is_run_once_for_all_that_were_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, runs = tmp_path / "key", tmp_path / "runs"
    key.write_text("first-key-of-command")
    keys = Keys({"OPENAI_API_KEY_COMMAND": f"echo run >> {runs}; cat {key}"})
    assert await asyncio.gather(*(keys.renew("first-key-of-command") for _ in range(20))) == [False] * 20
    assert runs.read_text().count("run") == 2, "once at the start, once for twenty refusals"
    monkeypatch.setattr(keys_module, "AGAIN_AFTER", 0.0)
    key.write_text("second-key-of-command")
    assert await keys.renew("first-key-of-command")
    assert keys.current == "second-key-of-command"


async def test_a_source_that_fails_later_leaves_the_key_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first-key-of-file")
    keys = Keys({"OPENAI_API_KEY_FILE": str(file)})
    file.unlink()
    assert not await keys.renew("first-key-of-file")
    assert keys.current == "first-key-of-file"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OPENAI_API_KEY_FILE", "/no/such/file", "OPENAI_API_KEY_FILE cannot be read: .*No such file"),
        ("OPENAI_API_KEY_FILE", "/dev/null", "OPENAI_API_KEY_FILE gives no key"),
        ("OPENAI_API_KEY_COMMAND", "echo topsecret; exit 3", "OPENAI_API_KEY_COMMAND ended with code 3"),
        ("OPENAI_API_KEY_COMMAND", "echo two topsecret words", "OPENAI_API_KEY_COMMAND gives no key"),
        ("OPENAI_API_KEY_COMMAND", "printf 'a\\nb: topsecret'", "OPENAI_API_KEY_COMMAND gives no key"),
    ],
)
def test_a_source_without_a_key_is_named_and_shows_nothing(variable: str, value: str, message: str) -> None:
    with pytest.raises(CredentialsMissing, match=message) as error:
        Keys({variable: value})
    assert "topsecret" not in str(error.value)
