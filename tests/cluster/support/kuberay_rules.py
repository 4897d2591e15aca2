"""What the manifests must say beyond their schemas: each breach is one line."""

from collections.abc import Iterator
from typing import Any

Manifest = dict[str, Any]
# "Network cards" of Amazon EC2's guide; eksctl's efaEnabled makes an EFA interface on each.
EFA_CARDS = {"p4d.24xlarge": 4, "p5.48xlarge": 32}
MADE_BY_HAND = {  # docs/cluster.md makes these secrets, with these keys; none is in the repository
    "redis": {"password"},
    "postgres": {"password"},
    "mlflow-server": {"admin-password", "flask-secret-key", "backend-store-uri", "basic_auth.ini"},
    "mlflow-client": {"username", "password"},
}


def breaches(manifests: list[Manifest]) -> list[str]:
    """Every rule that the manifests break."""
    by_kind: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        by_kind.setdefault(manifest["kind"], []).append(manifest)
    (cluster,) = by_kind["RayCluster"]
    lines = [*_secrets(manifests), *_policies(by_kind["NetworkPolicy"]), *_cluster(cluster["spec"])]
    accounts = {account["metadata"]["name"] for account in by_kind["ServiceAccount"]}
    maps = {each["metadata"]["name"] for each in by_kind["ConfigMap"]}
    for name, template in pods(manifests):
        lines += [f"{name}: {line}" for line in _pod(template["spec"], accounts, maps)]
    for service in by_kind["Service"]:
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            lines.append(f"service {service['metadata']['name']} is open to the outside")
        labels = [template["metadata"].get("labels", {}) for _, template in pods(manifests)]
        if not any(service["spec"]["selector"].items() <= each.items() for each in labels):
            lines.append(f"service {service['metadata']['name']} finds no pod")
    return lines


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod template, with a name for it."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "RayCluster":
            yield "head", {"metadata": {}, **spec["headGroupSpec"]["template"]}
            for group in spec["workerGroupSpecs"]:
                yield group["groupName"], {"metadata": {}, **group["template"]}
        elif "template" in spec:
            yield manifest["metadata"]["name"], spec["template"]


def values(value: Any, key: str) -> Iterator[Any]:
    """Everything under `key`, however deep."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == key:
                yield item
            yield from values(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from values(item, key)


def _secrets(manifests: list[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        if manifest["kind"] == "Secret":
            yield f"secret {manifest['metadata']['name']} is in the repository"
    for wanted in values(manifests, "secretKeyRef"):
        if wanted["key"] not in MADE_BY_HAND.get(wanted["name"], ()):
            yield f"nobody makes key {wanted['key']} of secret {wanted['name']}"
    for env in values(manifests, "env"):
        for variable in env:
            name = variable["name"].lower()
            if "value" in variable and any(w in name for w in ("password", "secret", "token")):
                yield f"{variable['name']} is written down"


def _policies(policies: list[Manifest]) -> Iterator[str]:
    closed = [
        policy
        for policy in policies
        if policy["spec"]["podSelector"] == {}
        and set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        and not {"ingress", "egress"} & set(policy["spec"])
    ]
    if not closed:
        yield "no policy denies by default"
    for policy in policies:
        name = policy["metadata"]["name"]
        for rule in policy["spec"].get("ingress", []):
            if not rule.get("from") or any("ipBlock" in peer for peer in rule["from"]):
                yield f"policy {name} lets the outside in"
            if any(peer == {"podSelector": {}} for peer in rule.get("from", [])):
                yield f"policy {name} lets every pod in"
        for block in values(policy["spec"].get("egress", []), "ipBlock"):
            if "169.254.169.254/32" not in block.get("except", []):
                yield f"policy {name} leaves the node's credentials in reach"


def _cluster(spec: Manifest) -> Iterator[str]:
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "Ray runs without a token"
    if not spec.get("enableInTreeAutoscaling") or spec["autoscalerOptions"].get("version") != "v2":
        yield "autoscaler v2 is not on"
    if "valueFrom" not in spec.get("gcsFaultToleranceOptions", {}).get("redisPassword", {}):
        yield "GCS does not survive its head, or its password is written down"
    head = spec["headGroupSpec"]
    if head["rayStartParams"].get("num-cpus") != "0" or list(values(head, "nvidia.com/gpu")):
        yield "the head must hold no task and no GPU"
    if head.get("serviceType") != "ClusterIP":
        yield "the head is open to the outside"
    for group in spec["workerGroupSpecs"]:
        if group["minReplicas"] != 0 or not 0 < group["maxReplicas"] < 1000:
            yield f"{group['groupName']} must start at 0 and have a limit"
        if group["template"]["spec"].get("terminationGracePeriodSeconds", 30) < 110:
            yield f"{group['groupName']} does not use a spot notice"
        yield from _worker(group)


def _worker(group: Manifest) -> Iterator[str]:
    name, pod = group["groupName"], group["template"]["spec"]
    (container,) = pod["containers"]
    said = {each["name"]: each.get("value", "") for each in container.get("env", [])}
    grace = pod.get("terminationGracePeriodSeconds", 30)
    drain = float(said.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 30))  # Ray's own default
    if not grace - 20 <= drain < grace:
        yield f"{name} drains for {drain:g} s of {grace}"
    if list(values(container, "nvidia.com/gpu")):
        for variable in ("NCCL_SOCKET_IFNAME", "NCCL_DEBUG"):
            if variable not in said:
                yield f"{name}: NCCL is not told {variable}"
        if said.get("PYTORCH_ALLOC_CONF") != "expandable_segments:True":
            yield f"{name}: torch's allocator may not grow its segments"
        yield from _efa(name, pod, said)


def _efa(name: str, pod: Manifest, said: dict[str, str]) -> Iterator[str]:
    """What a pod with GPUs needs on a node with EFA, by the kind that it asks for."""
    kind = pod.get("nodeSelector", {}).get("node.kubernetes.io/instance-type")
    wanted = EFA_CARDS.get(kind, 0)
    for asked in values(pod, "resources"):
        for amounts in asked.values():
            found = amounts.get("vpc.amazonaws.com/efa", 0)
            if found != wanted:
                yield f"{name} asks for {found} EFA cards, a {kind} has {wanted}"
    if wanted and said.get("FI_PROVIDER") != "efa":
        yield f"{name}: libfabric may take another network than EFA"


def _pod(spec: Manifest, accounts: set[str], maps: set[str]) -> Iterator[str]:
    account = spec.get("serviceAccountName")
    if account is not None and account not in accounts:
        yield f"account {account} is not there"
    if account != "ray-head" and spec.get("automountServiceAccountToken") is not False:
        yield "holds a Kubernetes token without need"
    for wanted in (*values(spec, "configMap"), *values(spec, "configMapRef")):
        if wanted["name"] not in maps:
            yield f"ConfigMap {wanted['name']} is not there"
    mounted = {each["name"] for mounts in values(spec, "volumeMounts") for each in mounts}
    for container in spec["containers"]:
        name, _, tag = container["image"].rpartition(":")
        if not name or tag == "latest":
            yield f"image {container['image']} is not pinned"
        security = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
        if (
            not security.get("runAsNonRoot")
            or security.get("allowPrivilegeEscalation") is not False
        ):
            yield "may become root"
        if security.get("capabilities") != {"drop": ["ALL"]}:
            yield "keeps capabilities"
        resources = container.get("resources", {})
        if "memory" not in resources.get("limits", {}) or "cpu" not in resources.get(
            "requests", {}
        ):
            yield "has no resources"
        # KubeRay adds Ray's own probes
        if not container["name"].startswith("ray-") and not (
            container.get("livenessProbe") and container.get("readinessProbe")
        ):
            yield "has no probes"
    templates = {"data"} if "data" in mounted else set()  # volumeClaimTemplates
    if mounted - templates - {volume["name"] for volume in spec.get("volumes", [])}:
        yield "mounts a volume that is not there"
