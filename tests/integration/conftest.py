"""What several integration tests need of the session's stack."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from batch.local.stack import LocalStack
from tests.provider import behave

INSTALL = "apt-get install -y --no-install-recommends chromium chromium-driver"


@pytest.fixture
def env(stack: LocalStack) -> Iterator[LocalStack]:
    """The stack, its endpoints applied to this process."""
    with stack.applied_environment():
        yield stack


@pytest.fixture
def provider(stack: LocalStack) -> Iterator[Callable[..., None]]:
    """Changes how the simulated provider behaves, for one test."""
    changed: dict[str, Any] = {}

    def control(**options: Any) -> None:
        behave(stack, **options)
        changed.update(dict.fromkeys(options, 0))

    yield control
    control(**changed)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"Chromium is missing: {INSTALL}")
        pytest.skip(f"Chromium is missing: {INSTALL}")
    options = Options()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,2600"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as opened:
        yield opened
