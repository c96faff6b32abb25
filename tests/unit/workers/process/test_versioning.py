"""Which version a worker polls as, by its environment."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from temporalio.common import VersioningBehavior

from workers.process.main import main
from workers.process.versioning import VersionIncomplete, deployment_config

NAME, BUILD = "TEMPORAL_DEPLOYMENT_NAME", "TEMPORAL_WORKER_BUILD_ID"


@pytest.mark.parametrize("environment", [{}, {NAME: "", BUILD: ""}, {"TEMPORAL_ADDRESS": "localhost:7233"}])
def test_without_the_controllers_variables_a_worker_has_no_version(environment: dict[str, str]) -> None:
    config = deployment_config(environment)
    assert not config.use_worker_versioning
    assert config.version.to_canonical_string() == f"docbatch-unversioned.{version('docbatch')}"


def test_the_controllers_variables_make_a_version_whose_executions_are_pinned() -> None:
    config = deployment_config({NAME: "batches/nightly-control", BUILD: "0.1.0-1a2b"})
    assert config.use_worker_versioning
    assert (config.version.deployment_name, config.version.build_id) == ("batches/nightly-control", "0.1.0-1a2b")
    assert config.default_versioning_behavior is VersioningBehavior.PINNED


@pytest.mark.parametrize(("there", "missing"), [(NAME, BUILD), (BUILD, NAME)])
def test_one_variable_without_the_other_is_refused(
    there: str, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(VersionIncomplete, match=f"{there} is set and {missing} is not"):
        deployment_config({there: "x"})
    monkeypatch.delenv(missing, raising=False)
    monkeypatch.setenv(there, "x")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert f"docbatch worker: {there} is set and {missing} is not" in capsys.readouterr().err
