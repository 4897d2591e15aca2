"""`ray up cluster/aws.yaml` in the account that cluster/iam/aws-account.yaml makes, offline.

EC2, IAM, S3 and CloudFormation are moto on loopback; `ssh` and `rsync` are remote.py. What is real:
Ray's command line, its bootstrap of AWS, its node provider, every command it would run on the head.
"""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import cfnlint.api
import pytest
import yaml
from moto.server import ThreadedMotoServer
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config

from tests.cluster.support.iam import Context, allows

FOLDER = Path(__file__).parents[2] / "cluster"
ACCOUNT = "123456789012"  # moto's
TEMPLATE = FOLDER / "iam" / "aws-account.yaml"
TOKEN = "t" * 64


@dataclass(frozen=True)
class Account:
    """An AWS account after `aws cloudformation deploy`."""

    security_group: str
    home: Path

    def policies(self, role: str) -> list[dict[str, Any]]:
        """The statements of a role's policies, as IAM has them."""
        iam = boto3.client("iam")
        found = []
        for each in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
            version = iam.get_policy_version(PolicyArn=each["PolicyArn"], VersionId="v1")
            found += version["PolicyVersion"]["Document"]["Statement"]
        return found


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    home = tmp_path_factory.mktemp("aws")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-west-2")
        for cached in (resource_cache, client_cache):
            cached.cache_clear()
        vpc = boto3.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
        routes = boto3.client("ec2").describe_route_tables()["RouteTables"][0]["RouteTableId"]
        formation = boto3.client("cloudformation")
        formation.create_stack(
            StackName="vit-on-ray",
            TemplateBody=TEMPLATE.read_text(),
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[
                {"ParameterKey": "VpcId", "ParameterValue": vpc},
                {"ParameterKey": "SubnetId", "ParameterValue": subnet_of_zone()},
                {"ParameterKey": "RouteTableId", "ParameterValue": routes},
                {"ParameterKey": "SshFrom", "ParameterValue": "203.0.113.7/32"},
            ],
        )
        (stack,) = formation.describe_stacks(StackName="vit-on-ray")["Stacks"]
        yield Account(stack["Outputs"][0]["OutputValue"], home)
    server.stop()


@dataclass(frozen=True)
class Launched:
    """What `ray up` left behind."""

    said: str
    told: str
    """Every command line that went to ssh or rsync."""
    sent: Path
    """Files that rsync was told to copy."""


@pytest.fixture(scope="module")
def launched(account: Account) -> Launched:
    home = account.home
    (home / "bin").mkdir()
    for name in ("ssh", "rsync"):
        stand_in = shutil.copy(Path(__file__).parent / "support" / "remote.py", home / "bin" / name)
        Path(stand_in).chmod(0o755)
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    images = boto3.client("ec2").describe_images()["Images"]
    text = (FOLDER / "aws.yaml").read_text()
    for word, value in (
        ("MY_ACCOUNT", ACCOUNT),
        ("MY_SECURITY_GROUP", account.security_group),
        ("MY_SUBNET", subnet_of_zone()),
        ("MY_AMI", images[0]["ImageId"]),
    ):
        text = text.replace(word, value)
    assert "MY_" not in text.replace("MY_...", ""), "a word that docs/cluster.md does not fill in"
    (home / "my-aws.yaml").write_text(text)
    done = subprocess.run(
        [Path(sys.executable).with_name("ray"), "up", "--yes", home / "my-aws.yaml"],
        env={
            **os.environ,
            "HOME": str(home),
            "TMPDIR": str(home),  # Ray caches the bootstrapped config there
            "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
            "REMOTE_LOG": str(home / "told.jsonl"),
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return Launched(done.stdout, (home / "told.jsonl").read_text(), home)


def subnet_of_zone() -> str:
    """The default subnet of the zone that aws.yaml names."""
    filters = [{"Name": "availability-zone", "Values": ["us-west-2a"]}]
    return boto3.client("ec2").describe_subnets(Filters=filters)["Subnets"][0]["SubnetId"]


def instances(**tags: str) -> list[dict[str, Any]]:
    filters = [
        {"Name": f"tag:{name.replace('_', '-')}", "Values": [value]} for name, value in tags.items()
    ]
    found = boto3.client("ec2").describe_instances(Filters=filters)["Reservations"]
    return [instance for one in found for instance in one["Instances"]]


def test_the_head_comes_up_on_demand_with_its_own_role(
    account: Account, launched: Launched
) -> None:
    (head,) = instances(ray_node_type="head", ray_cluster_name="vit-on-ray")
    assert head["InstanceType"] == "m6i.2xlarge"
    assert "InstanceLifecycle" not in head, "a spot head"
    assert head["IamInstanceProfile"]["Arn"].endswith("/vit-on-ray-head")
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    assert [group["GroupId"] for group in head["SecurityGroups"]] == [account.security_group]
    volumes = boto3.client("ec2").describe_volumes()["Volumes"]
    assert all(volume["Encrypted"] for volume in volumes)


def test_ray_made_no_role_and_opened_no_port(account: Account, launched: Launched) -> None:
    roles = {role["RoleName"] for role in boto3.client("iam").list_roles()["Roles"]}
    assert roles == {"vit-on-ray-head", "vit-on-ray-gpu", "vit-on-ray-data"}
    groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"default", "vit-on-ray"}
    (ours,) = (group for group in groups if group["GroupName"] == "vit-on-ray")
    from_outside = [rule for rule in ours["IpPermissions"] if rule["IpRanges"]]
    (ssh,) = from_outside
    assert (ssh["FromPort"], ssh["ToPort"]) == (22, 22)
    assert ssh["IpRanges"] == [{"CidrIp": "203.0.113.7/32"}]


def test_a_word_that_was_not_filled_in_stops_ray_up_before_anything_starts(
    account: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(account.home))  # for the key pair
    before = len(instances())
    config = prepare_config(yaml.safe_load((FOLDER / "aws.yaml").read_text()))
    with pytest.raises(AssertionError):
        bootstrap_aws(config)
    assert "Failed to detect a security group" in capsys.readouterr().err
    assert len(instances()) == before
    groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"default", "vit-on-ray"}


def test_the_head_was_told_to_start_ray_with_a_token(launched: Launched) -> None:
    assert "RAY_AUTH_MODE=token ray start --head" in launched.told
    assert "--dashboard-host=127.0.0.1" in launched.told
    assert "-e RAY_AUTH_MODE=token" in launched.told
    assert (launched.sent / "auth_token").read_text() == TOKEN  # by rsync, not in a command line
    assert TOKEN not in launched.told + launched.said
    assert f"s3://vit-on-ray-runs-{ACCOUNT}/mlflow" in launched.told
    assert "pip install" not in launched.told


@pytest.mark.parametrize(
    ("group", "kind", "role"),
    [
        ("gpu-spot", "p4d.24xlarge", "vit-on-ray-gpu"),
        ("gpu-h100-spot", "p5.48xlarge", "vit-on-ray-gpu"),
        ("cpu-spot", "c6i.8xlarge", "vit-on-ray-data"),
    ],
)
def test_the_config_sent_to_the_head_starts_spot_workers(
    launched: Launched, group: str, kind: str, role: str
) -> None:
    config = yaml.safe_load((launched.sent / "ray_bootstrap_config.yaml").read_text())
    wanted = config["available_node_types"][group]
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    provider.create_node(wanted["node_config"], {"ray-user-node-type": group}, 1)
    (worker,) = instances(ray_user_node_type=group)
    assert (worker["InstanceType"], worker["InstanceLifecycle"]) == (kind, "spot")
    assert worker["IamInstanceProfile"]["Arn"].endswith(f"/{role}")
    assert worker["MetadataOptions"]["HttpTokens"] == "required"
    assert wanted["resources"].get("GPU", 0) == (8 if "gpu" in group else 0)  # Ray asked EC2
    if "gpu" in group:
        assert worker["SubnetId"] == subnet_of_zone()
        assert "vit-on-ray" in wanted["node_config"]["Placement"]["GroupName"]


def test_gpu_nodes_reach_storage_and_images_without_a_public_address(account: Account) -> None:
    endpoints = boto3.client("ec2").describe_vpc_endpoints()["VpcEndpoints"]
    ways = {one["ServiceName"].removeprefix("com.amazonaws.us-west-2."): one for one in endpoints}
    assert set(ways) == {"s3", "ecr.api", "ecr.dkr"}
    assert ways["s3"]["RouteTableIds"]
    assert ways["ecr.api"]["SubnetIds"] == ways["ecr.dkr"]["SubnetIds"] == [subnet_of_zone()]


def test_the_buckets_are_private_and_runs_keeps_versions(account: Account) -> None:
    names = {bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]}
    assert names == {f"vit-on-ray-{name}-{ACCOUNT}" for name in ("data", "runs")}
    # moto makes the buckets, but passes over what CloudFormation says of access
    resources = yaml.safe_load(TEMPLATE.read_text())["Resources"]
    for name in ("DataBucket", "RunsBucket"):
        block = resources[name]["Properties"]["PublicAccessBlockConfiguration"]
        assert list(block.values()) == [True] * 4
        assert resources[name]["DeletionPolicy"] == "Retain"
    assert resources["RunsBucket"]["Properties"]["VersioningConfiguration"]["Status"] == "Enabled"
    for name in ("DataTls", "RunsTls"):
        (deny,) = resources[name]["Properties"]["PolicyDocument"]["Statement"]
        assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


RUNS, DATA = (f"arn:aws:s3:::vit-on-ray-{name}-{ACCOUNT}" for name in ("runs", "data"))
EC2 = f"arn:aws:ec2:us-west-2:{ACCOUNT}"
IAM = f"arn:aws:iam::{ACCOUNT}"
OURS = {"aws:ResourceTag/ray-cluster-name": "vit-on-ray"}
TO_EC2 = {"iam:PassedToService": "ec2.amazonaws.com"}
START = {
    "aws:RequestTag/ray-cluster-name": "vit-on-ray",
    "ec2:MetadataHttpTokens": "required",
    "ec2:InstanceProfile": f"{IAM}:instance-profile/vit-on-ray-gpu",
}
INSTANCE, VOLUME = f"{EC2}:instance/*", f"{EC2}:volume/*"
SHARD = f"{DATA}/datasets/jft300m/train-000000.tar"
ATTEMPT = f"{RUNS}/runs/h14/pretrain/abc123"
WEIGHTS = f"{ATTEMPT}/weights-0123456789ab.safetensors"
STATE = f"{ATTEMPT}/resume/step-00000100/weights.safetensors"
MAY: list[tuple[str, str, str, Context, bool]] = [
    ("head", "ec2:RunInstances", INSTANCE, START, True),
    ("head", "ec2:RunInstances", INSTANCE, START | {"ec2:MetadataHttpTokens": "optional"}, False),
    ("head", "ec2:RunInstances", INSTANCE, START | {"aws:RequestTag/ray-cluster-name": "x"}, False),
    (
        "head",
        "ec2:RunInstances",
        INSTANCE,
        START | {"ec2:InstanceProfile": f"{IAM}:x/admin"},
        False,
    ),
    ("head", "ec2:RunInstances", VOLUME, {"ec2:Encrypted": "true"}, True),
    ("head", "ec2:RunInstances", VOLUME, {"ec2:Encrypted": "false"}, False),
    ("head", "ec2:RunInstances", f"{EC2}:security-group/sg-other", {}, False),
    ("head", "ec2:RunInstances", f"{EC2}:placement-group/vit-on-ray", {}, True),
    ("head", "ec2:RunInstances", f"{EC2}:placement-group/other", {}, False),
    ("head", "ec2:TerminateInstances", f"{EC2}:instance/i-1", OURS, True),
    ("head", "ec2:TerminateInstances", f"{EC2}:instance/i-1", {}, False),
    ("head", "ec2:AuthorizeSecurityGroupIngress", f"{EC2}:security-group/sg-1", {}, False),
    ("head", "iam:PassRole", f"{IAM}:role/vit-on-ray-gpu", TO_EC2, True),
    ("head", "iam:PassRole", f"{IAM}:role/admin", TO_EC2, False),
    ("head", "s3:PutObject", f"{RUNS}/mlflow/1/config.yaml", {}, True),
    ("head", "s3:PutObject", f"{RUNS}/runs/.probe-0", {}, True),
    ("head", "s3:DeleteObject", f"{RUNS}/runs/.probe-0", {}, True),
    ("gpu", "s3:GetObject", SHARD, {}, True),
    ("gpu", "s3:PutObject", SHARD, {}, False),
    ("gpu", "s3:PutObject", f"{RUNS}/mlflow/1/config.yaml", {}, False),
    ("gpu", "s3:PutObject", WEIGHTS, {}, True),
    ("gpu", "s3:DeleteObject", WEIGHTS, {}, False),
    ("gpu", "s3:DeleteObject", f"{ATTEMPT}/manifest.json", {}, False),
    ("gpu", "s3:DeleteObject", STATE, {}, True),
    ("gpu", "ec2:RunInstances", INSTANCE, START, False),
    ("gpu", "iam:PassRole", f"{IAM}:role/vit-on-ray-gpu", TO_EC2, False),
    ("data", "s3:GetObject", SHARD, {}, True),
    ("data", "s3:GetObject", WEIGHTS, {}, False),
    ("data", "s3:PutObject", WEIGHTS, {}, False),
]


@pytest.mark.parametrize(("role", "action", "resource", "context", "may"), MAY)
def test_a_role_may_do_its_part_only(
    account: Account, role: str, action: str, resource: str, context: Context, may: bool
) -> None:
    statements = account.policies(f"vit-on-ray-{role}")
    assert allows(statements, action, resource, context) == may


def test_cfn_lint_finds_a_slip_in_the_template_and_otherwise_none() -> None:
    def found(text: str) -> list[str]:
        matches = cfnlint.api.lint_all(text)
        return [f"{match.rule.id} {match.message}" for match in matches if match.rule.id[0] in "EW"]

    text = TEMPLATE.read_text()
    assert found(text) == []
    assert found(text.replace("BucketEncryption:", "BucketEncription:"))
