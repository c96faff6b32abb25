"""Where the servers of the local stack answer, and the environment that leads programs to them and to nothing else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING

from batch.local.isolation import isolated_environment, isolated_session, own_settings
from batch.local.options import StackOptions
from batch.local.ports import LOOPBACK
from batch.local.processes import Process
from batch.local.servers import REGION

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKETS = ("corpus", "results")
"""The buckets that exist once the stack is healthy."""
API_KEY = "simulated-key"
"""What the provider is called with. No secret: it opens nothing."""


class Endpoints:
    """A stack's addresses. `ports` and `credentials` are known once it has its data folder."""

    def __init__(self, options: StackOptions) -> None:
        self.options = options
        self.ports: dict[str, int] = {}
        self.credentials: dict[str, str] = {}
        self.prometheus: Process | None = None

    @property
    def temporal_address(self) -> str:
        return f"{LOOPBACK}:{self.ports['temporal']}"

    @property
    def temporal_ui_url(self) -> str | None:
        return f"http://{LOOPBACK}:{self.ports['temporal_ui']}" if self.options.ui else None

    @property
    def temporal_metrics_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['temporal_metrics']}/metrics"

    @property
    def s3_endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['s3']}"

    @property
    def provider_url(self) -> str | None:
        """Returns the provider's root; `OPENAI_BASE_URL` is its `/v1`."""
        return f"http://{LOOPBACK}:{self.ports['provider']}" if self.options.provider else None

    @property
    def prometheus_url(self) -> str | None:
        return f"http://{LOOPBACK}:{self.ports['prometheus']}{self.prometheus_path}" if self.prometheus else None

    @property
    def prometheus_path(self) -> str:
        return f"/{self._token('prometheus')}"

    @property
    def temporal_http_host(self) -> str:
        """The one name in `Host` that Temporal's HTTP API answers to: it cannot be switched off, nor asks for a key."""
        return f"{self._token('temporal')}.docbatch.invalid"

    def _token(self, purpose: str) -> str:
        """Returns what no web page can guess, the same at every start on this data folder."""
        secret = self.credentials["AWS_SECRET_ACCESS_KEY"].encode()
        return blake2b(purpose.encode(), key=secret, digest_size=12).hexdigest()

    def metrics_url(self, worker: Process) -> str:
        return f"http://{LOOPBACK}:{self.ports[worker.name]}/metrics"

    def environment(self) -> dict[str, str]:
        """Returns the endpoints and credentials, under the ecosystem's own names, and what keeps settings files out."""
        variables = own_settings() | {
            "TEMPORAL_ADDRESS": self.temporal_address,
            "AWS_ENDPOINT_URL_S3": self.s3_endpoint,
            **self.credentials,
            "AWS_REGION": REGION,
        }
        if self.provider_url:
            variables |= {"OPENAI_BASE_URL": f"{self.provider_url}/v1", "OPENAI_API_KEY": API_KEY}
        return variables | dict(self.options.environment or {})

    def child_environment(self) -> dict[str, str]:
        """Returns what `isolated_environment` lets pass of ours, plus `environment()`."""
        return isolated_environment() | self.environment()

    @contextlib.contextmanager
    def applied_environment(self) -> Iterator[None]:
        """Give this very process the children's environment for a while, for clients that read it.

        `os.environ` alone is exchanged. C's environment has no lock, and native threads read it at any time (polars'
        every millisecond), so whoever changes it beside them crashes now and then.
        """
        before = os.environ
        os.environ = self.child_environment()  # type: ignore[assignment]  # noqa: B003 - C's is not to change
        try:
            yield
        finally:
            os.environ = before  # noqa: B003

    def s3_client(self) -> S3Client:
        """Makes a boto3 client of the stack's S3 server, whatever the environment says. It does not retry."""
        import boto3
        from botocore.config import Config

        session = boto3.session.Session(
            botocore_session=isolated_session(),
            aws_access_key_id=self.credentials["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.credentials["AWS_SECRET_ACCESS_KEY"],
            region_name=REGION,
        )
        no_proxies: dict[str, str] = {}
        config = Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            s3={"addressing_style": "path"},
            connect_timeout=2,
            read_timeout=20,
            proxies=no_proxies,
        )
        return session.client("s3", endpoint_url=self.s3_endpoint, config=config)
