"""The environment of the local stack's processes. Nothing in it leads to an account or to settings of the user's."""

from __future__ import annotations

import os

from batch.local.ports import LOOPBACK

# What could lead a child to a real account, or a server to settings of the user's (weed reads S3_* and WEED_*).
_FOREIGN_PREFIXES = ("AWS_", "AZURE_", "OPENAI_", "TEMPORAL_", "S3_", "WEED_")


def isolated_environment() -> dict[str, str]:
    """This process's environment, without what leads to the user's accounts, and with loopback past any proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_PREFIXES)}
    direct = ",".join(filter(None, [kept.get("no_proxy") or kept.get("NO_PROXY"), LOOPBACK, "localhost"]))
    return kept | {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PYTHONUNBUFFERED": "1",
    }


def bypass_proxies() -> None:
    """Lets this process's own clients reach loopback past a proxy that the user has set.

    Native ones read C's environment: it is changed here, once, before there are threads beside which that is unsafe.
    """
    if any(os.environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")):
        direct = isolated_environment()["NO_PROXY"]
        if LOOPBACK not in os.environ.get("no_proxy", ""):
            os.environ.update(NO_PROXY=direct, no_proxy=direct)
