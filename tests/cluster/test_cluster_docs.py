"""docs/cluster.md: what it tells to fill in, make and run is what the files want."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster.engine import LEAST_DRIVER
from cluster.settings import read_place
from pipelines.cli.command_line import read_command
from pipelines.cli.options import Command
from tests.cluster.support.kuberay_rules import EFA_CARDS, MADE_BY_HAND, breaches, pods, values
from tests.cluster.support.kustomize import build

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
VALUES = {
    "ACCOUNT": "123456789012",
    "GROUP": "sg-0123",
    "AMI": "ami-0123",
    "SUBNET": "subnet-0123",
    "PROJECT": "my-project-1",
    "IMAGE": "common-cu128",
    "ADDRESS": "203.0.113.7/32",
}


def commands() -> list[str]:
    """What follows a `$ ` in the console blocks, with its continuation lines."""
    found: list[str] = []
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(line[2:])
            else:
                found[-1] += "\n" + line
    return found


def test_the_shell_reads_every_command() -> None:
    assert len(commands()) > 60
    subprocess.run(["bash", "-n"], input="\n".join(commands()), text=True, check=True)


def test_its_commands_fill_in_every_word(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster")
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "vit-on-ray.pub").write_text("ssh-ed25519 AAAA/+ ubuntu\n")
    fill_in = [each for each in commands() if "sed " in each]
    subprocess.run(
        ["bash", "-e"],
        input="\n".join(fill_in),
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, **VALUES, "HOME": str(tmp_path)},
    )
    made = list(tmp_path.glob("my-*.yaml"))
    assert {path.name for path in made} == {
        *("my-aws.yaml", "my-gcp.yaml", "my-place.yaml", "my-eks.yaml")
    }
    for path in (*made, *(tmp_path / "my-kuberay" / "overlays" / "eks").glob("*.yaml")):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert [line for line in lines if "MY_" in line] == [], path.name
        assert yaml.safe_load(path.read_text())
    ready = yaml.safe_dump(build(tmp_path / "my-kuberay" / "overlays" / "eks"))
    assert "MY_" not in re.sub(r"\(?#.*", "", ready)


def test_every_secret_is_made() -> None:
    for name, keys in MADE_BY_HAND.items():
        made = PAGE[PAGE.index(f"$ secret {name} ") :].split("\n$ ")[0]
        assert {key for key in keys if f"--from-literal={key}=" in made} == keys, name


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"(?<!-)cluster/[\w/.-]+\.(?:yaml|json)|cluster/Dockerfile", PAGE))
    assert len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def submitted() -> list[str]:
    variables = dict(re.findall(r'^\$ (\w+)="(.*)"$', PAGE, re.MULTILINE))
    found = []
    for line in re.findall(r"ray job submit .*? -- python -P pipelines/(.*)", PAGE):
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        found.append(line)
    return found


@pytest.mark.parametrize("line", submitted())
def test_every_job_is_a_command_that_its_stage_takes(line: str) -> None:
    command = read(line)
    assert command.place.workers == read_place(ROOT / "cluster" / "place-aws.yaml").workers


def read(line: str) -> Command:
    script, *arguments = shlex.split(line)
    arguments[arguments.index("--config") + 1] = str(ROOT / "cluster" / "place-aws.yaml")
    stage = script.removesuffix(".py")
    return read_command(arguments, stage_name=stage, prog=script, description="")


def test_the_stages_of_the_run_on_imagenet21k_fit_each_other() -> None:
    pretrain, upscale, finetune = (read(line).stages[0] for line in submitted()[3:])
    assert pretrain.model.num_classes == upscale.model.num_classes == 21_843
    assert pretrain.data.dataset == upscale.data.dataset == "imagenet21k"
    assert (upscale.parent, finetune.parent) == ("pretrain", "upscale")
    assert pretrain.steps == 30 * (14_197_122 // pretrain.global_batch)


def test_the_eks_roles_are_those_of_the_overlay() -> None:
    eks = yaml.safe_load((ROOT / "cluster" / "kuberay" / "eksctl.yaml").read_text())
    roles = {each.get("roleName") for each in eks["iam"]["serviceAccounts"]} - {None}
    overlay = (ROOT / "cluster/kuberay/overlays/eks/kustomization.yaml").read_text()
    assert roles == set(re.findall(r"role/(vit-on-ray-eks-\w+)", overlay))
    account = (ROOT / "cluster/iam/aws-account.yaml").read_text()
    for each in eks["iam"]["serviceAccounts"]:
        for policy in each.get("attachPolicyARNs", []):
            assert f"ManagedPolicyName: {policy.split('/')[1]}\n" in account
    spot = {group["name"]: group.get("spot", False) for group in eks["managedNodeGroups"]}
    assert spot == {"head": False, "gpu-spot": True, "cpu-spot": True}
    (gpu,) = (group for group in eks["managedNodeGroups"] if group["name"] == "gpu-spot")
    assert gpu["efaEnabled"]
    assert len(gpu["availabilityZones"]) == 1


def test_its_commands_make_a_cluster_of_h100(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "cluster" / "kuberay", tmp_path / "my-kuberay")
    shutil.copy(ROOT / "cluster" / "kuberay" / "eksctl.yaml", tmp_path / "my-eks.yaml")
    change = [each for each in commands() if "p5.48xlarge" in each]
    assert change
    subprocess.run(["bash", "-e"], input="\n".join(change), text=True, check=True, cwd=tmp_path)
    eks = yaml.safe_load((tmp_path / "my-eks.yaml").read_text())
    (group,) = (each for each in eks["managedNodeGroups"] if each["name"] == "gpu-spot")
    assert group["instanceTypes"] == ["p5.48xlarge"]
    manifests = build(tmp_path / "my-kuberay" / "overlays" / "eks")
    assert breaches(manifests) == []
    (gpu,) = (template for name, template in pods(manifests) if name == "gpu-spot")
    assert list(values(gpu, "node.kubernetes.io/instance-type")) == ["p5.48xlarge"]
    assert list(values(gpu, "vpc.amazonaws.com/efa")) == [EFA_CARDS["p5.48xlarge"]] * 2


@pytest.mark.parametrize("guide", ["AWS", "Google Cloud", "Kubernetes"])
def test_each_guide_says_which_driver_the_nodes_need(guide: str) -> None:
    section = PAGE.split(f"\n## {guide}\n")[1].split("\n## ")[0]
    assert f"{LEAST_DRIVER} or newer" in section
    assert "CUDA 13" in section
