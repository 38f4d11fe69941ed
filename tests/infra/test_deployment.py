"""What is deployed agrees with itself and with the code; schemas of Kubernetes are checked where its tools are."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from broker import safety
from infra.kafka import _SECURITY
from infra.settings import load
from infra.topics import TOPICS
from tests.simulation.log_flow import INPUTS, OUTPUTS

yaml = pytest.importorskip("yaml", reason="pip install '.[dev]'")
ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "infra/k8s"
# a person may do without; in CI a check that is not made is a failure
KUBECTL = pytest.mark.skipif(shutil.which("kubectl") is None and "CI" not in os.environ, reason="no kubectl here")
OVERLAYS = pytest.mark.parametrize("overlay", ["dev", "prod", "paper"])
# flows that other parts of the platform bring: their module must be there before they are deployed
FLOWS = {"dataflows.ingest", "dataflows.live", "dataflows.signals", "dataflows.trading"}


@pytest.fixture(scope="module", params=["dev", "prod", "paper"])
def objects(request):
    if shutil.which("kubectl") is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)("no kubectl here")
    command = ["kubectl", "kustomize", str(K8S / "overlays" / request.param)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [one for one in yaml.safe_load_all(text) if one]


def of(objects, kind):
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def containers(flow):
    spec = flow["spec"]["template"]["spec"]
    return [*spec["initContainers"], *spec["containers"]]


def test_every_selector_matches_its_pods(objects):
    labels = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in of(objects, "StatefulSet").items()}
    for name, one in of(objects, "StatefulSet").items():
        assert one["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
        assert one["spec"]["serviceName"] in of(objects, "Service")
    for kind, path in (("Service", ("spec", "selector")), ("PodDisruptionBudget", ("spec", "selector", "matchLabels"))):
        assert set(of(objects, kind)) == set(labels)
        for name, one in of(objects, kind).items():
            for step in path:
                one = one[step]
            assert [flow for flow, has in labels.items() if one.items() <= has.items()] == [name]


def test_everything_that_is_named_exists(objects):
    maps, accounts = of(objects, "ConfigMap"), of(objects, "ServiceAccount")
    for flow in of(objects, "StatefulSet").values():
        spec = flow["spec"]["template"]["spec"]
        assert spec["serviceAccountName"] in accounts
        claims = {one["metadata"]["name"] for one in flow["spec"]["volumeClaimTemplates"]}
        volumes = {one["name"]: one for one in spec["volumes"]}
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
        for container in containers(flow):
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in ports
                    assert container[probe]["httpGet"]["path"] == "/metrics"
            for mount in container.get("volumeMounts", ()):
                assert mount["name"] in claims | set(volumes)
            for source in container.get("envFrom", ()):
                assert source.get("configMapRef", {"name": "utp"})["name"] in maps
                wanted = [{"name": "utp-kafka", "optional": True}]
                wanted += [{"name": "utp-alpaca"}] if container["name"] == "execute" else []
                assert source.get("secretRef", wanted[0]) in wanted
    for service in of(objects, "Service").values():
        flow = of(objects, "StatefulSet")[service["metadata"]["name"]]
        named = {port["name"] for container in containers(flow) for port in container.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
        assert service["spec"]["clusterIP"] == "None"


def test_each_pod_has_its_line_and_its_number(objects):
    for name, flow in of(objects, "StatefulSet").items():
        if name == "execute":  # no dataflow: one process
            continue
        lines = of(objects, "ConfigMap")[f"{name}-hosts"]["data"]["hostfile.txt"].split()
        replicas = flow["spec"]["replicas"]
        assert lines[:replicas] == [f"{name}-{k}.{name}:9999" for k in range(replicas)]
        assert len(lines) == max(replicas, 1)
        for container in containers(flow)[1:]:
            given = {one["name"]: one.get("value") for one in container["env"]}
            assert given["BYTEWAX_HOSTFILE_PATH"] == "/etc/bytewax/hostfile.txt"
            assert "BYTEWAX_POD_NAME" in given
        assert {"name": "BYTEWAX_STATEFULSET_NAME", "value": name} in containers(flow)[-1]["env"]


def test_one_writer_stays_one(objects):
    flows = of(objects, "StatefulSet")
    for name in ("ingest", "trading", "live", "execute"):
        assert name not in flows or flows[name]["spec"]["replicas"] <= 1


def test_orders_go_to_a_broker_only_where_that_is_wanted(objects, request):
    """And then the account hears it, and every gate but the human's is open."""
    given = of(objects, "ConfigMap")["utp"]["data"]
    replicas = of(objects, "StatefulSet")["execute"]["spec"]["replicas"]
    if request.node.callspec.params["objects"] != "paper":
        assert replicas == 0
        assert not {"VENUE__KIND", "BROKER__DRY_RUN", "TRADING_ENABLED"} & set(given)
        return
    assert replicas == 1
    settings = load(None, (), given)
    assert (settings.venue.kind, settings.broker.kind, settings.broker.dry_run) == ("broker", "paper", False)
    assert safety.trading_enabled(given)
    assert settings.run.account == "paper"


def test_what_is_approved_stays_on_the_volume_and_is_its_owners_alone(objects):
    spec = of(objects, "StatefulSet")["execute"]["spec"]["template"]["spec"]
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    (container,) = spec["containers"]
    given = {one["name"]: one["value"] for one in container["env"]}
    settings = load(None, (), given)
    for path in (settings.broker.approval_file, settings.broker.approval_key_file):
        assert path.startswith("/app/var/")
    assert {"name": "var", "mountPath": "/app/var"} in container["volumeMounts"]
    assert {"name": "metrics", "containerPort": settings.execution.metrics_port} in container["ports"]
    assert settings.execution.metrics_host == "0.0.0.0"  # noqa: S104  (the probes come from outside)


def test_nothing_runs_as_root_or_without_bounds(objects):
    for flow in of(objects, "StatefulSet").values():
        spec = flow["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 10001
        for container in containers(flow):
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["cpu"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert ":" in container["image"]


def test_the_commands_and_variables_are_the_codes_own(objects):
    """Settings in the ConfigMap are read by the code, and commands are commands of it."""
    known = {"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_TOPIC_PREFIX", "KAFKA_REPLICATION", "TRADING_ENABLED", *_SECURITY}
    given = of(objects, "ConfigMap")["utp"]["data"]
    assert {name for name in given if "__" not in name} <= known
    load(None, (), given)  # refuses a name that is no setting's
    script = (ROOT / "infra/run_flow.sh").read_text()
    for flow in of(objects, "StatefulSet").values():
        for container in containers(flow):
            command = container["command"]
            flows = [["sh", "infra/run_flow.sh", flow] for flow in FLOWS]
            assert command in [["utp", "topics", "create"], ["utp", "execute"], *flows]
            for variable in container.get("env", ()):
                name = variable["name"]
                assert name in script or name.startswith("BYTEWAX_") or "__" in name
                load(None, (), {name: variable["value"]} if "__" in name else {})


def test_no_secret_is_written_down():
    text = "".join(
        path.read_text() for path in [*K8S.rglob("*.yaml"), ROOT / "infra/compose.yaml", ROOT / "Dockerfile"]
    )
    assert not re.search(r"(?i)(password|secret|token|key)\s*[:=]\s*[\"']?[a-z0-9]{6,}", text)
    assert "kind: Secret" not in text


@KUBECTL
@OVERLAYS
def test_kubernetes_would_take_it(overlay, tmp_path):
    program = Path(sys.executable).with_name("kubernetes-validate")
    if not program.exists():
        (pytest.fail if "CI" in os.environ else pytest.skip)("no kubernetes-validate: pip install '.[dev]'")
    made = tmp_path / "all.yaml"
    command = ["kubectl", "kustomize", str(K8S / "overlays" / overlay)]
    made.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    run = subprocess.run([program, "--strict", "-k", "1.37.0", made], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_compose_names_what_is_there():
    compose = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())
    services = compose["services"]
    assert re.fullmatch(r"apache/kafka:\d+\.\d+\.\d+", services["kafka"]["image"])
    assert services["topics"]["command"] == ["utp", "topics", "create"]
    for name in ("ingest", "live"):
        assert services[name]["command"] == ["sh", "infra/run_flow.sh", f"dataflows.{name}"]
        assert f"dataflows.{name}" in FLOWS
    execute = services["execute"]
    assert (execute["command"], execute["profiles"]) == (["utp", "execute"], ["paper"])
    given = {name: str(value).partition(":-")[2].rstrip("}") if str(value).startswith("${") else value
             for name, value in execute["environment"].items()}  # fmt: skip
    settings = load(None, (), given)
    assert (settings.venue.kind, settings.broker.dry_run, safety.trading_enabled(given)) == ("simulated", True, False)
    assert given["ALPACA_API_KEY"] == given["ALPACA_SECRET_KEY"] == ""
    assert execute["environment"]["VENUE__KIND"] == services["live"]["environment"]["VENUE__KIND"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert {volume.split(":")[0] for volume in service.get("volumes", ())} <= set(compose["volumes"])


def test_the_image_holds_all_packages_and_compiles_them():
    text = (ROOT / "Dockerfile").read_text()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(re.findall(r"^COPY (\w+) \1$", text, re.M)) == set(packages)
    assert "python -m dataflows.warm" in text
    assert "USER 10001" in text
    assert text.count("FROM python:3.11.11-slim-bookworm") == 2


def start(where, folder, ordinal, each, hosts, only=""):
    flow = f"tests/simulation/log_flow.py:flow({where.servers!r}, {where.prefix!r}, {each})"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {
        **os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "UTP_RECOVERY": str(folder / f"pod{ordinal}"),
        "UTP_STORE": "log_flow", "UTP_SNAPSHOT_SECONDS": "1", "UTP_RECOVERY_ONLY": only,
        "BYTEWAX_HOSTFILE_PATH": str(hosts), "BYTEWAX_POD_NAME": f"flow-{ordinal}", "BYTEWAX_STATEFULSET_NAME": "flow",
    }  # fmt: skip
    return subprocess.Popen(["sh", "infra/run_flow.sh", flow], cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)


def test_two_pods_run_as_one_flow_and_resume_after_a_kill(kafka, tmp_path):
    """The script that the pods run: each keeps its own share of the recovery store."""
    import time

    from infra.embedded import free_port
    from infra.kafka import bounds
    from infra.topics import Topic, create_topics
    from tests.infra.logkit import fill
    from tests.simulation.test_log_kills import check

    each = 4_000
    create_topics(kafka, [Topic("in", INPUTS), Topic("out", OUTPUTS)])
    for number in range(INPUTS):
        fill(kafka, "in", number, [b"%d" % (i * INPUTS + number) for i in range(each)])
    hosts = tmp_path / "hostfile.txt"
    hosts.write_text("".join(f"127.0.0.1:{free_port()}\n" for _ in range(2)))
    for ordinal in (0, 1, 0):  # the init container; the second time there is nothing to do
        done = start(kafka, tmp_path, ordinal, each, hosts, "1")
        _, errors = done.communicate(timeout=30)
        assert done.returncode == 0, errors
    assert sorted(path.name for path in tmp_path.rglob("part-*")) == ["part-0.sqlite3", "part-1.sqlite3"]
    pods = [start(kafka, tmp_path, ordinal, each, hosts) for ordinal in (0, 1)]
    while sum(high for _, high in bounds(kafka, "out").values()) < 2_000 and pods[0].poll() is None:
        time.sleep(0.05)
    pods[1].kill()  # the other one ends by itself
    for pod in pods:
        pod.communicate(timeout=30)
    pods = [start(kafka, tmp_path, ordinal, each, hosts) for ordinal in (0, 1)]
    for pod in pods:
        _, errors = pod.communicate(timeout=60)
        assert pod.returncode == 0, errors[-2000:]
    check(kafka, each)


def test_every_topic_is_in_the_documentation():
    text = (ROOT / "docs/log.md").read_text()
    assert [topic.name for topic in TOPICS if f"`{topic.name}`" not in text] == []
