"""The simulated LLM provider: an OpenAI-compatible HTTP server that answers from the document's own text.

It stands in for a provider on a laptop, in tests and in benchmarks: it can be slow, limit, refuse and die on demand, and
it keeps the account that the tests check a run against: which documents were paid, and how often. Its model names begin
with `simulated-`, so that nobody mistakes it for a model.
"""

import argparse
import asyncio
import contextlib
import gzip
import math
import os
import resource
import signal
import socket
import statistics
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import orjson
import uvloop
from aiohttp.web import BaseRequest, HTTPRequestEntityTooLarge, RequestPayloadError, Response, Server

from batch.local.answers import SchemaError, Text, answer_for

MODELS = ("simulated-small", "simulated-large")
LARGEST_BODY = 25 * 2**20
# A request that is never answered is let go after this many seconds.
LONGEST_SILENCE = 600.0
JOURNAL_INTERVAL = 0.1
FAIL_ALL = (
    "500",
    "503",
    "429",
    "insufficient_quota",
    "invalid_api_key",
    "model_not_found",
    "permission_denied",
    "context_length_exceeded",
    "drop",
)
# The faults that single requests are hit by, in the order in which one draw between 0 and 1 is spent on their rates.
# The first five are not answers and are not paid; the others are answers, and are.
UNANSWERED = ("500", "503", "429", "timeout", "reset")
ODD_ANSWERS = ("malformed", "truncated", "refusal", "content_filter")
