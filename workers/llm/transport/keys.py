"""The key of the model's endpoint: from the environment, or from a file or a command that may give another one later.

Keys of many clouds live for an hour. One that is refused is read anew, once for all calls that it failed, before
anything is concluded from the refusal.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from workers.llm.transport.secrets import Secrets

KEY, KEY_FILE, KEY_COMMAND = "OPENAI_API_KEY", "OPENAI_API_KEY_FILE", "OPENAI_API_KEY_COMMAND"
COMMAND_SECONDS = 30.0
AGAIN_AFTER = 5.0
"""Seconds after which a source that had no other key is asked once more."""
MOST_BYTES = 64 * 1024

log = logging.getLogger(__name__)


class CredentialsMissing(Exception):
    """The worker's environment holds no key for the provider."""


class Keys:
    """The key that calls go out with. `OPENAI_API_KEY_FILE` counts before `OPENAI_API_KEY_COMMAND` before
    `OPENAI_API_KEY`. Raises `CredentialsMissing`."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        found = os.environ if environment is None else environment
        self._file, self._command = found.get(KEY_FILE, "").strip(), found.get(KEY_COMMAND, "").strip()
        self.secrets = Secrets()
        self._renewing = asyncio.Lock()
        self._read_at = time.monotonic()
        self._failed = ""
        self.current = self._read() if self._file or self._command else found.get(KEY, "")
        """The key; empty where the environment has none."""
        self.secrets.add(self.current)

    @property
    def identity(self) -> str:
        """Returns what stays the same however often the key changes, and is another one for another key."""
        return self._file or self._command or self.current

    async def renew(self, refused: str) -> bool:
        """Tells whether there is another key than the one that the provider refused: then it is the current one."""
        async with self._renewing:
            if self.current != refused:
                return True
            if not (self._file or self._command):
                return False
            if self._failed == refused and time.monotonic() - self._read_at < AGAIN_AFTER:
                return False
            try:
                key = await asyncio.to_thread(self._read)
            except CredentialsMissing as error:
                log.warning("the key is refused, and no other one found: %s", error)
                key = refused
            self._read_at = time.monotonic()
            if key == refused:
                self._failed = refused
                return False
            self.secrets.add(key)
            self.current = key
            log.info("the key was refused; another one is taken from %s", KEY_FILE if self._file else KEY_COMMAND)
            return True

    def _read(self) -> str:
        """The key by the file or the command. Raises `CredentialsMissing`, whose message shows nothing of it."""
        name = KEY_FILE if self._file else KEY_COMMAND
        try:
            if self._file:
                with Path(self._file).open("rb") as file:
                    raw = file.read(MOST_BYTES)
            else:
                raw = subprocess.run(
                    self._command,
                    shell=True,  # whoever sets the environment may run commands
                    check=True,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    timeout=COMMAND_SECONDS,
                ).stdout[:MOST_BYTES]
        except subprocess.CalledProcessError as error:
            raise CredentialsMissing(f"the command of {name} ended with code {error.returncode}") from None
        except subprocess.TimeoutExpired:
            raise CredentialsMissing(f"the command of {name} took more than {COMMAND_SECONDS:g} s") from None
        except OSError as error:
            raise CredentialsMissing(f"{name} cannot be read: {error}") from None
        key = raw.removeprefix(b"\xef\xbb\xbf").strip()
        if not key or not all(0x20 < byte < 0x7F for byte in key):
            raise CredentialsMissing(f"{name} gives no key: one line of printable characters without blanks")
        return key.decode("ascii")
