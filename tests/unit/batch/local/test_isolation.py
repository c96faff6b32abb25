"""What of the user's shell the local stack sees: nothing that leads anywhere."""

import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from batch.local.isolation import env_file, is_foreign, isolated_environment, isolated_session, own_settings
from tests.unit.batch.local.foreign import FOREIGN


def forget_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_named_few_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_proxies(monkeypatch)
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LC_TIME", "C")
    seen = isolated_environment()
    assert {"PATH", "LC_TIME"} <= seen.keys()
    assert seen.keys() & FOREIGN.keys() <= own_settings().keys()
    assert seen["NO_PROXY"] == seen["no_proxy"] == "example.com,.corp,127.0.0.1,localhost"
    assert not {value for value in seen.values() if "nonexistent" in value or value in ("the-users-own", "nobody")}


def test_boto3_sees_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    session = boto3.session.Session(
        botocore_session=isolated_session(), aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    client = session.client("s3", endpoint_url="http://127.0.0.1:1", config=Config(proxies={}))
    assert client.meta.endpoint_url == "http://127.0.0.1:1"
    credentials = session.get_credentials()
    assert credentials is not None and credentials.token is None
    assert session.profile_name == "default" and client.meta.config.retries.get("mode") != "none"


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_that_reads_the_file_forgets_the_rest(shell: str, tmp_path: Path) -> None:
    variables = {"TEMPORAL_ADDRESS": "127.0.0.1:7233", **own_settings(), "AWS_REGION": "us-east-1"}
    (tmp_path / "env").write_text(env_file(variables))
    script = "set -euo pipefail; " if shell == "bash" else "set -eu; "
    script += "set -a; . ./env; set +a; env -0"
    shown = subprocess.run(
        [shell, "-c", script],
        cwd=tmp_path,
        env={**FOREIGN, "PATH": "/usr/bin:/bin", "OTHER": "a\nAWS_LINE=1"},
        capture_output=True,
        check=True,
    )
    exported = dict(each.split("=", 1) for each in shown.stdout.decode().split("\0") if each)
    kinds = ("AWS_", "OPENAI_", "TEMPORAL_")
    assert {name: value for name, value in exported.items() if name.startswith(kinds)} == {
        name: value for name, value in variables.items() if name.startswith(kinds)
    }
    assert exported["NO_PROXY"] == variables["NO_PROXY"] and exported["OTHER"] == "a\nAWS_LINE=1"
    assert not shown.stderr


def test_docker_reads_the_same_from_the_file() -> None:
    """Its rules: no quotes, `#` begins a comment, no white space before the `=`, what is behind it counts as it is."""
    variables = {"TEMPORAL_ADDRESS": "127.0.0.1:7233", **own_settings()}
    read = {}
    for line in env_file(variables).splitlines():
        if not line.startswith("#"):
            name, separator, value = line.partition("=")
            assert separator and name.isidentifier(), line
            read[name] = value
    assert read.pop("DOCBATCH_STACK").startswith("local unset ")
    assert read == variables
    for value in ("two words", "$HOME", "it's", "`id`", "a;b", "a\nb", "ü"):
        with pytest.raises(ValueError, match="X cannot be written"):
            env_file({"X": value})


def test_a_file_of_the_users_own_is_no_place_for_it(tmp_path: Path) -> None:
    """`up` removes the file at its start and at its end: a `.env` with somebody's keys would be gone."""
    theirs, ours, empty = tmp_path / ".env", tmp_path / "env", tmp_path / "mktemp"
    theirs.write_text("OPENAI_API_KEY=the-users-own\n")
    ours.write_text(env_file({"AWS_REGION": "us-east-1"}))
    empty.touch()
    assert [is_foreign(path) for path in (theirs, ours, empty, tmp_path / "new")] == [True, False, False, False]
    program = Path(sys.executable).with_name("docbatch")
    arguments = ["up", "--data", str(tmp_path / "data"), "--env-file", str(theirs)]
    ended = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2 and str(theirs) in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert theirs.read_text() == "OPENAI_API_KEY=the-users-own\n" and not (tmp_path / "data").exists()
