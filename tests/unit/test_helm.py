"""The chart, rendered by Helm's own engine for every value file: valid, without privilege, without a secret's value."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from workers.process.main import parser

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
VALUES = {
    path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text())
    for path in sorted((CHART / "ci").glob("*-values.yaml"))
}
KUBERNETES = ["1.29", "1.37"]
"""The oldest that the chart allows, and the newest whose schemas are installed."""
CUSTOM = {
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("keda.sh/v1alpha1", "TriggerAuthentication"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("temporal.io/v1alpha1", "Connection"),
    ("temporal.io/v1alpha1", "WorkerDeployment"),
}
"""Kinds that Kubernetes has no schema for."""

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def chart() -> Iterator[helm.Chart]:
    with helm.Chart.load(CHART) as loaded:
        yield loaded


def changed(name: str, **changes: Any) -> dict[str, Any]:
    """A value file with some keys changed: `a__b=1` is `a.b`."""
    values: dict[str, Any] = json.loads(json.dumps(VALUES[name]))
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return values


def manifests(chart: helm.Chart, values: dict[str, Any], **options: Any) -> list[Manifest]:
    rendered = chart.render(values, name="nightly", namespace="batches", **options)
    return [
        manifest
        for path, text in rendered.items()
        if path.endswith(".yaml")
        for manifest in yaml.load_all(text, yaml.CSafeLoader)
        if manifest
    ]


def of(found: list[Manifest], kind: str, suffix: str = "") -> Manifest:
    (only,) = [each for each in found if each["kind"] == kind and each["metadata"]["name"].endswith(suffix)]
    return only


def settings(found: list[Manifest]) -> dict[str, str]:
    """The worker's environment; the other ConfigMaps are dashboards."""
    maps = [each for each in found if each["kind"] == "ConfigMap" and "TEMPORAL_ADDRESS" in each["data"]]
    (only,) = maps
    data: dict[str, str] = only["data"]
    return data


def pod_templates(found: list[Manifest]) -> list[Manifest]:
    return [each["spec"]["template"] for each in found if each["kind"] in ("Deployment", "WorkerDeployment")]


def environment(container: Manifest) -> dict[str, Any]:
    return {each["name"]: each for each in container["env"]}


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    else:
        yield str(value)


every_values = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)


# -- every value file


def test_the_value_files_are_there() -> None:
    assert {"minimal", "temporal-cloud-api-key", "temporal-cloud-mtls", "s3-compatible", "all-options"} <= set(VALUES)


@every_values
def test_lint_finds_nothing(values: dict[str, Any]) -> None:
    report = helm.lint(CHART, values, strict=True)
    assert (report["errors"], [each for each in report["messages"] if each["severity"] > 1]) == ([], [])


@every_values
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_is_valid(chart: helm.Chart, values: dict[str, Any], version: str) -> None:
    found = manifests(chart, values)
    for manifest in found:
        if (manifest["apiVersion"], manifest["kind"]) not in CUSTOM:
            kubernetes_validate.validate(manifest, version, strict=True)
    for template in pod_templates(found):  # also of a WorkerDeployment, which is none of Kubernetes' own
        selector = {"matchLabels": template["metadata"]["labels"]}
        spec = {"selector": selector, "template": template}
        deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": spec}
        kubernetes_validate.validate(deployment, version, strict=True)
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in found]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)


def test_strict_validation_catches_a_misspelt_key(chart: helm.Chart) -> None:
    deployment = of(manifests(chart, VALUES["minimal"]), "Deployment", "-control")
    deployment["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="redinessProbe"):
        kubernetes_validate.validate(deployment, KUBERNETES[-1], strict=True)


@every_values
def test_no_pod_has_a_privilege(chart: helm.Chart, values: dict[str, Any]) -> None:
    found = manifests(chart, values)
    templates = pod_templates(found)
    assert len(templates) == 2
    for template in templates:
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"].get("runAsUser") != 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        writable = [mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert writable == ["tmp"]
        assert "sizeLimit" in volumes["tmp"]["emptyDir"]
        assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]
    accounts = [each for each in found if each["kind"] == "ServiceAccount"]
    assert all(account["automountServiceAccountToken"] is False for account in accounts)
    assert not [each for each in found if "Role" in each["kind"]]


@every_values
def test_secrets_are_referred_to_and_never_spelt_out(chart: helm.Chart, values: dict[str, Any]) -> None:
    found = manifests(chart, values)
    assert not [each for each in found if each["kind"] == "Secret"]
    sensitive = re.compile(r"KEY|SECRET|TOKEN|PASSWORD")
    for template in pod_templates(found):
        for name, variable in environment(template["spec"]["containers"][0]).items():
            spelt_out = sensitive.search(name) and not name.endswith("_FILE")
            assert not spelt_out or set(variable) == {"name", "valueFrom"}, name
    config = settings(found)
    paths = {name for name in config if name.endswith("_PATH")}
    assert not [name for name in set(config) - paths if sensitive.search(name)]


def test_no_value_takes_a_secret() -> None:
    """Every key of the values that speaks of a secret is the name of one, or of a key in one."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    speaking = {text for text in strings(values) if re.search(r"secret|password|token|credential", text, re.IGNORECASE)}
    assert speaking == {"existingSecret", "caSecret", "pullSecrets", "secretAccessKeyKey", "AWS_SECRET_ACCESS_KEY"}


@every_values
def test_probes_ask_healthz_and_the_drain_fits_the_grace_period(chart: helm.Chart, values: dict[str, Any]) -> None:
    for template in pod_templates(manifests(chart, values)):
        (container,) = template["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}
            assert container[probe]["timeoutSeconds"] > 5, "/healthz takes up to 5 s to say no"
        command, *arguments = container["args"]
        options = parser().parse_args(arguments)
        assert command == "worker" and "command" not in container
        assert template["spec"]["terminationGracePeriodSeconds"] >= options.grace_seconds + 30
        assert list(ports.values()) == list(range(options.metrics_port, options.metrics_port + options.processes))
        assert template["metadata"]["labels"]["app.kubernetes.io/component"] == options.poll


@every_values
def test_an_upgrade_from_the_defaults_renders_and_changes_no_selector(
    chart: helm.Chart, values: dict[str, Any]
) -> None:
    values = {**values, "nameOverride": "", "fullnameOverride": ""}
    before = manifests(chart, VALUES["minimal"], is_install=True, revision=1)
    after = manifests(chart, values, is_upgrade=True, is_install=False, revision=2)
    kept = {(each["kind"], each["metadata"]["name"]): each for each in after}
    for old in before:
        new = kept.get((old["kind"], old["metadata"]["name"]))
        if new is None:  # a control Deployment becomes a WorkerDeployment; an account gets another name
            assert old["kind"] in ("Deployment", "ServiceAccount"), old["metadata"]
        elif old["kind"] == "Deployment":
            assert new["spec"]["selector"] == old["spec"]["selector"], "immutable"


# -- what the options do


def test_partitions_and_control_are_apart(chart: helm.Chart) -> None:
    found = manifests(chart, VALUES["minimal"])
    partitions, control = of(found, "Deployment", "-partitions"), of(found, "Deployment", "-control")
    for deployment, component in ((partitions, "partitions"), (control, "control")):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert f"--poll={component}" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        budget = of(found, "PodDisruptionBudget", f"-{component}")["spec"]
        assert budget["selector"] == deployment["spec"]["selector"]
        spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [each["labelSelector"] for each in spread] == [deployment["spec"]["selector"]] * 2


def test_temporal_cloud_by_api_key(chart: helm.Chart) -> None:
    found = manifests(chart, VALUES["temporal-cloud-api-key"])
    for template in pod_templates(found):
        container = template["spec"]["containers"][0]
        reference = environment(container)["TEMPORAL_API_KEY"]["valueFrom"]["secretKeyRef"]
        assert reference == {"name": "temporal-cloud", "key": "api-key"}
        assert container["image"].startswith("registry.example.com/docbatch@sha256:0123")
        assert "AWS_ACCESS_KEY_ID" not in environment(container)
    assert settings(found)["TEMPORAL_TLS"] == "true"
    assert "eks.amazonaws.com/role-arn" in of(found, "ServiceAccount")["metadata"]["annotations"]


def test_temporal_cloud_by_client_certificate(chart: helm.Chart) -> None:
    found = manifests(chart, VALUES["temporal-cloud-mtls"])
    config = settings(found)
    folder = Path(config["TEMPORAL_TLS_CLIENT_CERT_PATH"]).parent
    assert Path(config["TEMPORAL_TLS_CLIENT_KEY_PATH"]).parent == folder
    for template in pod_templates(found):
        mounts = {mount["mountPath"]: mount["name"] for mount in template["spec"]["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert volumes[mounts[str(folder)]]["secret"]["secretName"] == "temporal-cloud-client"
    parameters = {each["parameter"]: each for each in of(found, "TriggerAuthentication")["spec"]["secretTargetRef"]}
    assert {name: each["key"] for name, each in parameters.items()} == {"cert": "tls.crt", "key": "tls.key"}


def test_an_s3_compatible_endpoint_and_ids_of_the_platform(chart: helm.Chart) -> None:
    found = manifests(chart, VALUES["s3-compatible"])
    config = settings(found)
    assert config["AWS_ENDPOINT_URL_S3"] == "http://minio.storage.svc.cluster.local:9000"
    assert config["OPENAI_BASE_URL"] == "http://vllm.models.svc.cluster.local:8000/v1"
    assert config["TEMPORAL_TLS_SERVER_CA_CERT_PATH"] == "/etc/temporal/ca/ca.crt"
    for template in pod_templates(found):
        assert set(template["spec"]["securityContext"]) == {"runAsNonRoot", "seccompProfile"}
        variables = environment(template["spec"]["containers"][0])
        reference = variables["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
        assert reference == {"name": "minio", "key": "rootPassword"}
    egress = of(found, "NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for rule in egress for port in rule["ports"]} == {53, 443, 7233, 8000, 9000}


def test_the_models_key_is_a_variable_or_a_mounted_file_that_may_change(chart: helm.Chart) -> None:
    for template in pod_templates(manifests(chart, VALUES["minimal"])):
        assert "valueFrom" in environment(template["spec"]["containers"][0])["OPENAI_API_KEY"]
    for template in pod_templates(manifests(chart, VALUES["all-options"])):
        (container,) = template["spec"]["containers"]
        variables = environment(container)
        assert "OPENAI_API_KEY" not in variables
        file = Path(variables["OPENAI_API_KEY_FILE"]["value"])
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        mount = mounts[str(file.parent)]
        assert "subPath" not in mount, "a file mounted so is never renewed"
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        secret = volumes[mount["name"]]["secret"]
        assert (secret["secretName"], secret["items"]) == ("gateway", [{"key": "key", "path": file.name}])


def test_a_changed_setting_rolls_the_pods(chart: helm.Chart) -> None:
    def checksums(values: dict[str, Any]) -> set[str]:
        templates = pod_templates(manifests(chart, values))
        return {template["metadata"]["annotations"]["checksum/config"] for template in templates}

    before, after = checksums(VALUES["minimal"]), checksums(changed("minimal", s3__region="eu-west-1"))
    assert len(before) == len(after) == 1 and before != after


def test_keda_sees_backlog_and_slots_in_use(chart: helm.Chart) -> None:
    found = manifests(chart, VALUES["all-options"])
    scaled = of(found, "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == of(found, "Deployment", "-partitions")["metadata"]["name"]
    assert "replicas" not in of(found, "Deployment", "-partitions")["spec"], "an upgrade would undo KEDA's count"
    triggers = {trigger["name"]: trigger for trigger in scaled["triggers"]}
    assert triggers["backlog"]["metadata"]["taskQueue"] == "nightly"
    assert triggers["backlog"]["metadata"]["queueTypes"] == "activity"
    assert all(isinstance(text, str) for each in scaled["triggers"] for text in each["metadata"].values())
    in_use = triggers["in_use"]["metadata"]
    assert 'temporal_worker_task_slots_used{namespace="batches",pod=~"nightly-batches-partitions-.+"' in in_use["query"]
    assert in_use["ignoreNullValues"] == triggers["replicas"]["metadata"]["ignoreNullValues"] == "false"


@pytest.mark.parametrize(
    ("backlog", "in_use", "replicas", "pods"),
    [
        (0, 0, 5, 0),  # nothing to do: down to the minimum
        (0, 1, 5, 5),  # one partition runs somewhere: none goes
        (0, 320, 5, 5),
        (64, 320, 5, 6),  # what runs and what waits
        (1000, 0, 0, 16),
        (10, 100, 5, 5),
    ],
)
def test_keda_never_scales_in_over_a_running_partition(
    chart: helm.Chart, backlog: int, in_use: int, replicas: int, pods: int
) -> None:
    modifiers = of(manifests(chart, VALUES["all-options"]), "ScaledObject")["spec"]["advanced"]["scalingModifiers"]
    assert modifiers["metricType"] == "AverageValue"
    c_like = re.sub(
        r"^(.+) \? \((.+) \? (.+) : (.+)\) : (.+)$", r"((\3) if (\2) else (\4)) if (\1) else (\5)", modifiers["formula"]
    )
    metric = eval(c_like, {}, {"backlog": backlog, "in_use": in_use, "replicas": replicas})
    assert -(-metric // int(modifiers["target"])) == pods


SERIES = """
temporal_worker_task_slots_used{LABELS,pod="nightly-batches-partitions-a"} 3
temporal_worker_task_slots_used{LABELS,pod="nightly-batches-partitions-b"} 2
temporal_worker_task_slots_used{LABELS,pod="nightly-batches-control-c"} 7
kube_pod_deletion_timestamp{namespace="batches",pod="nightly-batches-partitions-b"} 1700000000
""".replace("LABELS", 'namespace="batches",task_queue="nightly",worker_type="ActivityWorker"')
WANTED = 'kube_deployment_spec_replicas{namespace="batches",deployment="nightly-batches-partitions"} '


@pytest.mark.parametrize(
    ("series", "in_use"),
    [
        (SERIES + WANTED + "2", [3]),  # not of a pod that is going, not of control
        (WANTED + "0", [0]),  # scaled to none: nobody can say it, so the wanted count does
        (WANTED + "2", []),  # pods nobody scrapes: no answer, rather than "nothing runs"
        ("", []),
    ],
)
def test_prometheus_answers_what_keda_asks(chart: helm.Chart, tmp_path: Path, series: str, in_use: list[int]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        missing = "promtool is missing: apt-get install prometheus"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    scaled = of(manifests(chart, VALUES["all-options"]), "ScaledObject")["spec"]
    queries = {each["name"]: each["metadata"]["query"] for each in scaled["triggers"] if each["type"] == "prometheus"}
    lines = [line.rsplit(" ", 1) for line in series.split("\n") if line]
    expression = {"expr": queries["in_use"], "eval_time": "1m"}
    expression["exp_samples"] = [{"labels": "{}", "value": value} for value in in_use]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": f"{value} {value}"} for name, value in lines],
        "promql_expr_test": [expression],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"tests": [test]}))
    checked = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_versioned_control_workers_get_temporals_credentials_from_the_controller_alone(chart: helm.Chart) -> None:
    found = manifests(chart, VALUES["all-options"])
    assert [each["metadata"]["name"] for each in found if each["kind"] == "Deployment"] == [
        "nightly-batches-partitions"
    ]
    worker = of(found, "WorkerDeployment")["spec"]
    connection = of(found, "Connection")
    assert worker["workerOptions"] == {
        "connectionRef": {"name": connection["metadata"]["name"]},
        "temporalNamespace": "batches.a1b2c",
    }
    assert connection["spec"]["apiKeySecretRef"] == {"name": "temporal-cloud", "key": "token"}
    assert not [name for name in environment(worker["template"]["spec"]["containers"][0]) if "TEMPORAL" in name]
    certificate = manifests(chart, {**changed("temporal-cloud-mtls"), "versioning": {"enabled": True}})
    template = of(certificate, "WorkerDeployment")["spec"]["template"]
    assert "temporal-tls" not in [volume["name"] for volume in template["spec"]["volumes"]], "the controller adds it"


def test_every_process_of_a_pod_is_scraped(chart: helm.Chart) -> None:
    found = manifests(chart, VALUES["all-options"])
    endpoints = [each["port"] for each in of(found, "PodMonitor")["spec"]["podMetricsEndpoints"]]
    container = of(found, "Deployment", "-partitions")["spec"]["template"]["spec"]["containers"][0]
    assert endpoints == [port["name"] for port in container["ports"]]
    (ingress,) = of(found, "NetworkPolicy")["spec"]["ingress"]
    (allowed,) = ingress["ports"]
    assert (allowed["port"], allowed["endPort"]) == (9100, 9103)


# -- dashboards and rules


def test_dashboards_and_rules_are_the_repositorys_own(chart: helm.Chart) -> None:
    """The chart reads `dashboards/` itself, by a link: there is no copy that could differ."""
    assert (CHART / "dashboards").resolve() == ROOT / "dashboards"
    found = manifests(chart, VALUES["all-options"])
    carried = {
        name: json.loads(text)
        for each in found
        for name, text in each.get("data", {}).items()
        if "grafana_dashboard" in each["metadata"]["labels"]
    }
    assert carried == {path.name: json.loads(path.read_text()) for path in (ROOT / "dashboards").glob("*.json")}
    groups = [
        group
        for path in sorted((ROOT / "dashboards" / "rules").glob("*.y*ml"))
        for group in yaml.safe_load(path.read_text()).get("groups", [])
    ]
    rules = [each for each in found if each["kind"] == "PrometheusRule"]
    assert [group for each in rules for group in each["spec"]["groups"]] == groups


def test_dashboards_and_rules_of_a_folder(tmp_path: Path) -> None:
    """As above, whatever the repository holds: text of Prometheus and Grafana that looks like Helm's stays as it is."""
    subprocess.run(["cp", "-r", "--no-dereference", CHART, tmp_path / "helm"], check=True)
    folder = tmp_path / "dashboards"  # where the chart's link leads now
    (folder / "rules").mkdir(parents=True)
    (folder / "corpus_runs.py").write_text("raise SystemExit")
    dashboard = {"title": "Corpus runs", "legend": "{{job_name}}", "text": "a\n  'b' \"c\""}
    (folder / "corpus_runs.json").write_text(json.dumps(dashboard, indent=2))
    rule = {"alert": "Paused", "expr": "docbatch_runs > 0", "annotations": {"summary": "{{ $labels.job_name }} paused"}}
    groups = [{"name": "runs", "rules": [rule]}]
    (folder / "rules" / "alerts.yaml").write_text(yaml.safe_dump({"groups": groups}))
    (folder / "rules" / "alerts_test.yaml").write_text(yaml.safe_dump({"groups": [{"name": "no"}]}))
    with helm.Chart.load(tmp_path / "helm") as chart:
        assert not [file["name"] for file in chart.files if file["name"].endswith(".py")]
        found = manifests(chart, VALUES["all-options"])
    config = of(found, "ConfigMap", "-corpus-runs")
    assert json.loads(config["data"]["corpus_runs.json"]) == dashboard
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert of(found, "PrometheusRule")["spec"]["groups"] == groups


# -- what is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "image/repository|repository"),
        (changed("minimal", temporal__address="temporal-frontend"), "/temporal/address"),
        (changed("minimal", model__existingSecret=""), "/model/existingSecret"),
        (changed("minimal", partitions__replica=3), "/partitions.*additional properties 'replica' not allowed"),
        (changed("minimal", partitions__slots=0), "/partitions/slots.*minimum"),
        (changed("minimal", podSecurityContext__runAsUser=0), "/podSecurityContext/runAsUser.*minimum"),
        (changed("minimal", podSecurityContext__privileged=True), "'privileged' not allowed"),
        (changed("minimal", s3__endpoint="minio:9000"), "/s3/endpoint"),
        (changed("minimal", logLevel="verbose"), "/logLevel"),
        (changed("minimal", keda__enabled=True), "/keda/prometheus/serverAddress"),
        (changed("minimal", model__apiKey="sk-1"), "/model.*'apiKey' not allowed"),
        (changed("temporal-cloud-mtls", temporal__apiKey={"existingSecret": "k"}), "API key or a client certificate"),
        (changed("temporal-cloud-mtls", keda__maxReplicas=1, keda__minReplicas=2), "less than keda.minReplicas"),
    ],
)
def test_bad_values_are_refused_by_name(chart: helm.Chart, values: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError) as refused:
        manifests(chart, values)
    assert re.search(message, str(refused.value), re.DOTALL), str(refused.value)


def test_the_schema_knows_every_value_and_no_other() -> None:
    def compare(values: Any, schema: dict[str, Any], path: str) -> None:
        if schema.get("additionalProperties") is False:
            described = set(schema["properties"]) - {"global", "claims"}
            assert described == set(values) or path == "/resources", path
            for name, value in values.items():
                compare(value, schema["properties"][name], f"/{name}")

    schema = json.loads((CHART / "values.schema.json").read_text())
    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")
