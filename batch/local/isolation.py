"""The environment of the local stack: of its processes, of this process' own clients, and of shells that use it.

Nothing of the user's leads anywhere in it: what passes is named here, and all else stays outside, whatever its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from batch.local.ports import LOOPBACK

if TYPE_CHECKING:
    import botocore.session

# What a program needs to run as this user on this machine, and no server, account or proxy is found by.
_KEPT = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TMPDIR|TEMP|TMP|TZ|TERM|COLORTERM|NO_COLOR|FORCE_COLOR|COLUMNS|LINES|LANG|LANGUAGE|LC_\w+"
    r"|(DY)?LD_(FALLBACK_)?LIBRARY_PATH"
)
_PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_UNSAFE = re.compile(r"[^\w@%+=:,./*\[\]-]", re.ASCII)
_MARK = "DOCBATCH_STACK=local"
_SHELL_LINE = f"""\
# For a shell, `set -a; . FILE; set +a`, and for docker's --env-file alike. A shell forgets by the next line what it has
# of other AWS_, OPENAI_ and TEMPORAL_ settings; elsewhere that is a variable which nobody reads.
{_MARK} unset AWS_SESSION_TOKEN \
`awk 'BEGIN {{for (n in ENVIRON) if (n ~ /^(AWS|OPENAI|TEMPORAL)_/) print n}}'`
"""


def isolated_environment() -> dict[str, str]:
    """Returns what a process of the local stack gets of this one's environment, and what keeps it to itself."""
    kept = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    return kept | own_settings() | {"PYTHONUNBUFFERED": "1"}


def own_settings() -> dict[str, str]:
    """Variables that keep a client from the user's settings files, from a cloud's metadata, and from any proxy."""
    users = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
    hosts = [host for each in users if (host := each.strip()) and not _UNSAFE.search(host)]
    direct = ",".join(dict.fromkeys([*hosts, LOOPBACK, "localhost"]))
    return {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "TEMPORAL_NAMESPACE": "default",
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


def env_file(variables: Mapping[str, str]) -> str:
    """The text of a file that gives a shell, or docker's `--env-file`, these variables and no others of their kinds.

    Docker takes everything behind the `=` as it stands, quotes too: what a shell would read otherwise is refused.

    Raises:
        ValueError: A value has characters that only one of the two would take for themselves.
    """
    for name, value in variables.items():
        if _UNSAFE.search(value):
            raise ValueError(f"{name} cannot be written for shells and docker alike: {value!r}")
    return _SHELL_LINE + "".join(f"{name}={value}\n" for name, value in variables.items())


def is_foreign(path: Path) -> bool:
    """Tells whether a file is there that says something and is none of `env_file`: a user's own settings, say."""
    try:
        text = path.read_text(errors="replace") if path.is_file() else ""
    except OSError:
        return True
    return bool(text) and _MARK not in text


def isolated_session() -> botocore.session.Session:
    """Returns a botocore session that looks neither at this process' environment nor at any settings file."""
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

    from batch.storage.aws import new_session

    session = new_session()
    store = session.get_component("config_store")
    for name, (_, variable, default, _) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items():
        if variable and name != "data_path":
            store.set_config_variable(name, os.devnull if name in ("config_file", "credentials_file") else default)
    return session


def isolate_process() -> None:
    """Takes from this very process what its children do not get. For programs that do nothing but run a local stack.

    C's environment too, which native clients read (obstore, all of `AWS_*`): so before there are threads, beside which
    changing it is unsafe.
    """
    isolated = isolated_environment()
    for name in os.environ.keys() - isolated.keys():
        del os.environ[name]
    os.environ.update(isolated)


def bypass_proxies() -> None:
    """Lets this process's own clients reach loopback past a proxy that the user has set.

    Native ones read C's environment: it is changed here, once, before there are threads beside which that is unsafe.
    """
    if any(os.environ.get(name) for name in _PROXIES):
        direct = own_settings()["NO_PROXY"]
        if LOOPBACK not in os.environ.get("no_proxy", ""):
            os.environ.update(NO_PROXY=direct, no_proxy=direct)
