"""cluster/kuberay: every manifest against its schema, the rules, kustomize, and what it starts."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from cluster.scaling import worker_counts
from cluster.settings import read_place
from pipelines.cli.command_line import read_command
from tests.cluster.support.kuberay_rules import Manifest, breaches, pods, values
from tests.cluster.support.kustomize import build, documents

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "kuberay"
JOBS = sorted((FOLDER / "jobs").glob("*.yaml"))
PARTS = ["base", "overlays/eks"]
KUBERNETES = "1.34"
EFA = "vpc.amazonaws.com/efa"
OWN_SCHEMA = Path(__file__).with_name("schemas") / "ray.io_v1.yaml"


def ray_schema(kind: str) -> Any:
    """The schema of a ray.io kind that lets no unknown field pass: the published CRD, or ours."""
    folder = os.environ.get("KUBERAY_CRDS")
    if not folder:
        return closed(yaml.safe_load(OWN_SCHEMA.read_text())[kind])
    crd = yaml.safe_load((Path(folder) / f"ray.io_{kind.lower()}s.yaml").read_text())
    (version,) = (each for each in crd["spec"]["versions"] if each["name"] == "v1")
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused; Kubernetes itself drops them without a word."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(item) for key, item in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        schema.setdefault("additionalProperties", bool(schema.get(PRESERVE)))
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    return schema


PRESERVE = "x-kubernetes-preserve-unknown-fields"


def check(manifest: Manifest) -> None:
    """Hold one manifest against its schema.

    Raises:
        jsonschema.ValidationError: it does not fit.
    """
    if not manifest["apiVersion"].startswith("ray.io/"):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    schema = ray_schema(manifest["kind"])
    metadata = schema["properties"]["metadata"]
    metadata.pop("additionalProperties", None)
    jsonschema.Draft202012Validator(schema).validate(manifest)
    for name, template in pods([manifest]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}}
        kubernetes_validate.validate({**pod, "template": template}, KUBERNETES, strict=True)
    for context in values(manifest["spec"].get("autoscalerOptions", {}), "securityContext"):
        container = {"name": "autoscaler", "image": "x:1", "securityContext": context}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
        spec = {"spec": {"containers": [container]}}
        kubernetes_validate.validate({**pod, **spec}, KUBERNETES, strict=True)


@pytest.mark.parametrize("part", PARTS)
def test_every_manifest_fits_its_schema_and_keeps_the_rules(part: str) -> None:
    manifests = build(FOLDER / part)
    for manifest in manifests:
        check(manifest)
    assert breaches(manifests) == []


def test_no_file_is_forgotten() -> None:
    named = set(documents(FOLDER / "base" / "kustomization.yaml")[0]["resources"])
    there = {path.name for path in (FOLDER / "base").glob("*.yaml")}
    assert there - named == {"kustomization.yaml", "ray_config.yaml"}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_itself_builds_the_same(part: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", FOLDER / part], capture_output=True, text=True, check=True
    )

    def by_name(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
        return {(m["kind"], m["metadata"]["name"]): m for m in manifests}

    assert by_name(list(yaml.safe_load_all(done.stdout))) == by_name(build(FOLDER / part))


def test_the_overlay_sends_each_group_to_its_nodes() -> None:
    (ray,) = (m for m in build(FOLDER / "overlays/eks") if m["kind"] == "RayCluster")
    capacity = "eks.amazonaws.com/capacityType"
    selectors = [template["spec"]["nodeSelector"][capacity] for _, template in pods([ray])]
    assert selectors == ["ON_DEMAND", "SPOT", "SPOT"]
    workers = [
        group["template"]["spec"]["containers"][0] for group in ray["spec"]["workerGroupSpecs"]
    ]
    efa = [one["resources"]["limits"].get(EFA, 0) for one in workers]
    assert efa == [4, 0]
    assert {"name": "FI_PROVIDER", "value": "efa"} in workers[0]["env"]


def test_a_patch_for_another_group_stops_the_build(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kuberay")
    path = tmp_path / "kuberay" / "base" / "raycluster.yaml"
    path.write_text(path.read_text().replace("groupName: gpu-spot", "groupName: gpu"))
    with pytest.raises(Exception, match="gpu-spot"):
        build(tmp_path / "kuberay" / "overlays" / "eks")


Change = Callable[[dict[str, Manifest]], None]


def cluster(m: dict[str, Manifest]) -> Manifest:
    return m["RayCluster/vit-on-ray"]["spec"]


def head(m: dict[str, Manifest]) -> Manifest:
    return cluster(m)["headGroupSpec"]


def group(m: dict[str, Manifest], index: int = 0) -> Manifest:
    return cluster(m)["workerGroupSpecs"][index]


def container(m: dict[str, Manifest], name: str) -> Manifest:
    return m[name]["spec"]["template"]["spec"]["containers"][0]


def pod(m: dict[str, Manifest], index: int) -> Manifest:
    return group(m, index)["template"]["spec"]


def policy(m: dict[str, Manifest], name: str) -> Manifest:
    return m[f"NetworkPolicy/{name}"]["spec"]


SLIPS: list[tuple[str, Change]] = [
    ("without a token", lambda m: cluster(m).pop("authOptions")),
    ("autoscaler v2", lambda m: cluster(m)["autoscalerOptions"].pop("version")),
    ("survive its head", lambda m: cluster(m).pop("gcsFaultToleranceOptions")),
    ("hold no task", lambda m: head(m)["rayStartParams"].clear()),
    ("open to the outside", lambda m: head(m).update(serviceType="LoadBalancer")),
    ("must start at 0", lambda m: group(m).update(minReplicas=1)),
    ("gpu-spot drains for 30 s of 110", lambda m: pod(m, 0)["containers"][0]["env"].clear()),
    ("cpu-spot drains for 30 s of 110", lambda m: pod(m, 1)["containers"][0]["env"].clear()),
    ("drains for 100 s of 90", lambda m: pod(m, 0).update(terminationGracePeriodSeconds=90)),
    ("not told NCCL_SOCKET_IFNAME", lambda m: pod(m, 0)["containers"][0]["env"].clear()),
    ("may not grow its segments", lambda m: pod(m, 0)["containers"][0]["env"].clear()),
    ("not told NCCL_DEBUG", lambda m: pod(m, 0)["containers"][0]["env"].clear()),
    ("spot notice", lambda m: pod(m, 0).pop("terminationGracePeriodSeconds")),
    ("Kubernetes token", lambda m: pod(m, 1).pop("automountServiceAccountToken")),
    ("account nobody", lambda m: pod(m, 0).update(serviceAccountName="nobody")),
    ("may become root", lambda m: container(m, "Deployment/mlflow").pop("securityContext")),
    ("has no probes", lambda m: container(m, "Deployment/mlflow").pop("livenessProbe")),
    ("has no resources", lambda m: container(m, "StatefulSet/redis").pop("resources")),
    ("not pinned", lambda m: container(m, "StatefulSet/postgres").update(image="postgres:latest")),
    ("written down", lambda m: container(m, "StatefulSet/redis").update(
        env=[{"name": "PASSWORD", "value": "redis"}])),
    ("nobody makes key", lambda m: container(m, "StatefulSet/redis")["env"][0]["valueFrom"]
        ["secretKeyRef"].update(key="passwort")),
    ("in the repository", lambda m: m.update(s={"kind": "Secret", "metadata": {"name": "redis"}})),
    ("denies by default", lambda m: policy(m, "nobody").update(ingress=[{}])),
    ("lets the outside in", lambda m: policy(m, "ray-head")["ingress"][0].pop("from")),
    ("lets every pod in", lambda m: policy(m, "mlflow")["ingress"][0].update(
        {"from": [{"podSelector": {}}]})),
    ("credentials in reach", lambda m: policy(m, "ray-among-itself")["egress"][2]["to"][0]
        ["ipBlock"].pop("except")),
    ("finds no pod", lambda m: m["Service/redis"]["spec"].update(selector={"app": "redis"})),
]  # fmt: skip


@pytest.mark.parametrize(("said", "change"), SLIPS)
def test_a_slip_is_found(said: str, change: Change) -> None:
    manifests = {f"{m['kind']}/{m['metadata']['name']}": m for m in build(FOLDER / "base")}
    change(manifests)
    found = breaches(list(manifests.values()))
    assert any(said in line for line in found), found


def limits(m: dict[str, Manifest]) -> Manifest:
    return pod(m, 0)["containers"][0]["resources"]["limits"]


EKS_SLIPS: list[tuple[str, Change]] = [
    ("may not grow its segments", lambda m: pod(m, 0)["containers"][0]["env"].clear()),
    ("another network than EFA", lambda m: pod(m, 0)["containers"][0]["env"].pop()),
    ("asks for 0 EFA cards, a p4d.24xlarge has 4", lambda m: limits(m).pop(EFA)),
    ("asks for 4 EFA cards, a p5.48xlarge has 32", lambda m: pod(m, 0)["nodeSelector"].update(
        {"node.kubernetes.io/instance-type": "p5.48xlarge"})),
    ("asks for 4 EFA cards, a c6i.8xlarge has 0", lambda m: pod(m, 0)["nodeSelector"].update(
        {"node.kubernetes.io/instance-type": "c6i.8xlarge"})),
]  # fmt: skip


@pytest.mark.parametrize(("said", "change"), EKS_SLIPS)
def test_a_slip_on_eks_is_found(said: str, change: Change) -> None:
    manifests = {f"{m['kind']}/{m['metadata']['name']}": m for m in build(FOLDER / "overlays/eks")}
    change(manifests)
    found = breaches(list(manifests.values()))
    assert any(said in line for line in found), found


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("RayCluster", lambda m: m["spec"].update(authOption={"mode": "token"})),
        ("RayCluster", lambda m: m["spec"]["workerGroupSpecs"][0].update(maxReplica=3)),
        ("RayCluster", lambda m: m["spec"]["headGroupSpec"]["template"]["spec"].update(image="x")),
        ("RayCluster", lambda m: m["spec"]["autoscalerOptions"].update(version="v3")),
        ("Deployment", lambda m: m["spec"].update(replica=2)),
        ("NetworkPolicy", lambda m: m["spec"].update(policyType=["Ingress"])),
    ],
)
def test_the_schemas_refuse_a_slip(kind: str, change: Callable[[Manifest], None]) -> None:
    manifest = next(m for m in build(FOLDER / "base") if m["kind"] == kind)
    change(manifest)
    with pytest.raises(jsonschema.ValidationError):
        check(manifest)


def test_published_crds_are_used_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, schema in yaml.safe_load(OWN_SCHEMA.read_text()).items():
        versions = [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]
        crd = {"kind": "CustomResourceDefinition", "spec": {"versions": versions}}
        (tmp_path / f"ray.io_{kind.lower()}s.yaml").write_text(yaml.safe_dump(crd))
    monkeypatch.setenv("KUBERAY_CRDS", str(tmp_path))
    (ray,) = (m for m in build(FOLDER / "base") if m["kind"] == "RayCluster")
    check(ray)
    ray["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        check(ray)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
@pytest.mark.parametrize("part", PARTS)
def test_a_job_is_a_command_that_its_stage_takes(path: Path, part: str) -> None:
    (job,) = documents(path)
    check(job)
    cluster = next(m for m in build(FOLDER / part) if m["kind"] == "RayCluster")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert job["metadata"]["namespace"] == cluster["metadata"]["namespace"]
    python, safe, script, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (python, safe) == ("python", "-P")
    assert (ROOT / Path(script).relative_to("/home/ray/vit-on-ray")).is_file()
    arguments[arguments.index("--config") + 1] = str(FOLDER / part / "ray_config.yaml")
    stage = path.stem
    command = read_command(arguments, stage_name=stage, prog=stage, description="")
    counts = worker_counts(command.place.workers, global_batch=command.stages[0].global_batch)
    assert (counts[0], counts[-1]) == (command.place.workers.min, command.place.workers.max)
    assert command.place.max_micro_batch == (8 if stage == "finetune" else 32)


@pytest.mark.parametrize("part", PARTS)
def test_the_place_fits_its_cluster(part: str) -> None:
    place = read_place(FOLDER / part / "ray_config.yaml")
    manifests = build(FOLDER / part)
    (cluster,) = (m for m in manifests if m["kind"] == "RayCluster")
    assert place.workers.max <= cluster["spec"]["workerGroupSpecs"][0]["maxReplicas"] * 8
    assert place.wait_for_nodes
    host, port = place.mlflow_uri.removeprefix("http://").split(":")
    (service,) = (m for m in manifests if (m["kind"], m["metadata"]["name"]) == ("Service", host))
    assert service["spec"]["ports"][0]["port"] == int(port)


def test_mlflow_takes_its_arguments_and_knows_its_names() -> None:
    import mlflow.cli  # two seconds

    (server,) = (m for m in build(FOLDER / "base") if m["kind"] == "Deployment")
    (spec,) = server["spec"]["template"]["spec"]["containers"]
    program, name = spec["command"]
    assert (program, name) == ("mlflow", "server")
    options = mlflow.cli.server.make_context(name, deepcopy(spec["args"])).params
    assert options["app_name"] == "basic-auth"
    assert {"mlflow:5000", "localhost:5000"} <= set(options["allowed_hosts"].split(","))
    assert "*" not in options["allowed_hosts"]
    assert options["artifacts_destination"] == "$(ARTIFACTS_DESTINATION)"
