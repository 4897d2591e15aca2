"""Plans: pure numbers against the paper's, and the command line in this process."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cluster.errors import BadPlace
from cluster.settings import Place, ShardCache, Workers, Zero
from pipelines.planning import command as planning
from pipelines.planning.advice import fitting_place
from pipelines.planning.command import plan, read_plan
from pipelines.planning.estimate import estimate
from pipelines.planning.hardware import NODE_KINDS, NodeKind, find_node_kind
from pipelines.planning.images import Images, images_of
from pipelines.recipes import find_recipe
from pipelines.recipes.stage import Stage
from tests.pipelines.conftest import Said
from tests.test_docs import ROOT

IMAGES = Images(train=303_000_000, val=0, mean_bytes=1e5, run_samples=16, source="")
GPUS = Place(workers=Workers(min=32, max=32, gpus=1), max_micro_batch=32)
TPU_V3_CORE = 61.5e12
"""FLOP/s: 123 a chip of two cores."""


def pretrain(recipe: str) -> Stage:
    return find_recipe(recipe).stage("pretrain")


def planned(*argv: str) -> planning.Command:
    return read_plan(list(argv), prog="plan.py", description="")


@pytest.mark.parametrize(
    ("recipe", "exaflops", "core_days"),
    [("vit-h14-jft", 4262, 2500), ("vit-l16-jft-14ep", 1567, 680)],
)
def test_the_papers_models_cost_what_the_paper_says(
    recipe: str, exaflops: float, core_days: float
) -> None:
    found = estimate(pretrain(recipe), GPUS, NODE_KINDS["p4d"], IMAGES)
    # Table 6 of arXiv:2010.11929
    assert found.exaflops == pytest.approx(exaflops, rel=0.01)
    # Table 2: an efficiency that a TPUv3 can have
    assert 0.25 < found.exaflops * 1e18 / (core_days * 86400 * TPU_V3_CORE) < 0.5


@pytest.mark.parametrize(("node", "kind"), [("gpu-spot", "p4d"), ("gpu-h100-spot", "p5")])
def test_the_network_is_what_the_cluster_attaches(node: str, kind: str) -> None:
    cluster = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())
    cards = cluster["available_node_types"][node]["node_config"]["NetworkInterfaces"]
    assert {card["InterfaceType"] for card in cards} == {"efa"}
    assert NODE_KINDS[kind].network_gigabytes == len(cards) * 100 / 8


def test_balanced_classes_are_read_one_by_one(tmp_path: Path) -> None:
    stage, nowhere = pretrain("vit-b16-imagenet21k"), Place(data_root=str(tmp_path))
    balanced = replace(stage, data=replace(stage.data, balance="sqrt"))
    assert [images_of(one, nowhere).run_samples for one in (stage, balanced)] == [16, 1]


def test_time_and_cost_follow_from_peak_and_mfu() -> None:
    cluster = replace(
        NODE_KINDS["p4d"], mfu=0.5, dollars_per_million_reads=0.0, dollars_per_million_writes=0.0
    )
    found = estimate(pretrain("vit-b16-imagenet21k"), GPUS, cluster, IMAGES)
    speed = 32 * 312e12 * 0.5
    assert found.days == pytest.approx(found.exaflops * 1e18 / speed / 86400)
    assert found.images_per_second == pytest.approx(speed / (found.training_gigaflops * 1e9))
    assert found.dollars == pytest.approx(found.days * 24 * 4 * cluster.dollars_per_node_hour)
    assert found.decode_cpus == pytest.approx(found.images_per_second * 0.0019 * 1e5 / 110_000)


def test_float32_takes_the_other_peak() -> None:
    stage = pretrain("vit-b16-imagenet21k")
    half = estimate(stage, GPUS, NODE_KINDS["p4d"], IMAGES)
    full = estimate(replace(stage, precision="float32"), GPUS, NODE_KINDS["p4d"], IMAGES)
    assert full.days == pytest.approx(half.days * 312 / 19.5)


def test_the_largest_micro_batch_fits_and_the_next_does_not() -> None:
    stage = replace(pretrain("vit-h14-jft"), global_batch=32 * 256)
    line = estimate(stage, GPUS, NODE_KINDS["p4d"], IMAGES).memory[1]
    largest = line.largest_micro_batch
    assert line.level == 2
    assert 32 < largest < 256

    def fits(micro: int) -> bool:
        place = replace(GPUS, max_micro_batch=micro)
        one = replace(stage, global_batch=32 * micro * 4)
        return estimate(one, place, NODE_KINDS["p4d"], IMAGES).memory[1].fits

    assert fits(largest)
    assert not fits(largest + 1)


def test_a_model_that_does_not_fit_says_so_and_no_place_is_proposed() -> None:
    tiny = replace(NODE_KINDS["p4d"], memory_gibibytes=3.0)
    found = estimate(pretrain("vit-h14-jft"), GPUS, tiny, IMAGES)
    assert {line.largest_micro_batch for line in found.memory} == {0}
    assert fitting_place([found], GPUS, tiny) == []


def test_bfloat16_has_no_level_0() -> None:
    found = estimate(pretrain("vit-b16-jft"), GPUS, NODE_KINDS["p4d"], IMAGES)
    assert [line.level for line in found.memory] == [1, 2, 3]


def test_offloading_needs_less_of_the_gpu() -> None:
    stage = pretrain("vit-h14-jft")
    plain = replace(GPUS, workers=Workers(min=8, max=8, gpus=1))
    offload = replace(plain, zero=Zero(level=2, offload_optimizer=True))
    kept, moved = (
        estimate(stage, place, NODE_KINDS["p4d"], IMAGES).memory[1] for place in (plain, offload)
    )
    assert moved.states < kept.states
    assert moved.host > 0 == kept.host


def test_a_head_alone_takes_a_third_of_the_time_and_no_states_of_the_rest() -> None:
    place = replace(GPUS, zero=Zero(level=1))
    stage = pretrain("vit-b16-imagenet21k")
    whole, head = (
        estimate(replace(stage, train=train), place, NODE_KINDS["p4d"], IMAGES)
        for train in ("all", "head")
    )
    assert head.exaflops == pytest.approx(whole.exaflops / 3)
    trained = 768 * 768 + 768 + (768 + 1) * 21_843  # with the pre-training head's hidden layer
    assert head.parameters == whole.parameters
    assert head.state_bytes == 4 * (head.parameters + 2 * trained)
    assert whole.state_bytes == 4 * 3 * whole.parameters
    assert head.memory[0].states == 2 * head.parameters + 12 * -(-trained // 32)
    assert head.memory[0].activations < whole.memory[0].activations / 5
    assert head.network_bytes < whole.network_bytes / 4


def test_lamb_keeps_adams_states_and_muon_half_of_them_but_sends_more() -> None:
    """Of B/16's 86.6 million weights 84.9 are in the 48 matrices of its blocks."""
    stage, few = find_recipe("deit3-b16").stage("finetune"), Workers(min=4, max=4, gpus=1)
    adamw, lamb, muon, adamw_3, muon_3 = (
        estimate(
            replace(stage, optim=replace(stage.optim, name=name)),
            replace(GPUS, workers=few, zero=Zero(level=level)),  # type: ignore[arg-type]
            NODE_KINDS["p4d"],
            IMAGES,
        )
        for name, level in (("adamw", 2), ("lamb", 2), ("muon", 2), ("adamw", 3), ("muon", 3))
    )
    assert [line.states for line in lamb.memory] == [line.states for line in adamw.memory]
    matrices, share = 12 * 12 * 768**2, 3 / 4
    saved = adamw.memory[1].states - muon.memory[1].states
    assert saved == pytest.approx(4 * matrices / 4, rel=1e-3)
    assert muon.network_bytes - adamw.network_bytes == share * 8 * 3 * 4 * 768**2  # three cuts
    assert muon_3.network_bytes - adamw_3.network_bytes == share * 8 * matrices


def test_a_cache_that_holds_the_data_reads_it_once_a_node() -> None:
    stage = pretrain("vit-b16-imagenet1k")
    images = replace(IMAGES, train=1_281_167)
    cached = replace(GPUS, cache=ShardCache(folder="/scratch", gibibytes=200))
    every, once = (estimate(stage, p, NODE_KINDS["p4d"], images) for p in (GPUS, cached))
    assert every.read_bytes == pytest.approx(every.epochs * 1_281_167 * (1e5 + 512))
    assert once.read_bytes == pytest.approx(4 * 1_281_167 * (1e5 + 512))


def test_nodes_follow_from_the_place_or_are_given() -> None:
    stage = pretrain("vit-b16-jft")
    assert estimate(stage, GPUS, NODE_KINDS["p4d"], IMAGES).nodes == 4
    asked = estimate(stage, Place(), replace(NODE_KINDS["p4d"], nodes=2), IMAGES)
    assert (asked.workers, asked.nodes) == (16, 2)
    alone = estimate(stage, Place(), NODE_KINDS["p4d"], IMAGES)
    assert (alone.workers, alone.nodes) == (8, 1)


def test_a_packed_dataset_is_counted(local_data: str) -> None:
    stage = find_recipe("digits").stage("finetune")
    found = images_of(stage, Place(data_root=local_data))
    assert (found.train, found.val) == (100, 377)  # ten of each class; all classes
    assert 100 < found.mean_bytes < 1000  # of the PNG alone
    assert "counted" in found.source


def test_without_data_the_published_size_or_the_command_line_counts(tmp_path: Path) -> None:
    root = ("--place.data-root", str(tmp_path))
    (one, *_) = plan(planned("--recipe", "vit-b16-imagenet21k", "--on", "p4d", *root))
    assert one.images.train == 14_197_122
    assert "not packed" in one.images.source
    given = planned("--images", "1000", "--mean-bytes", "5000", "--on", "laptop", *root)
    assert {(e.images.train, e.images.mean_bytes) for e in plan(given)} == {(1000, 5000.0)}


def test_one_stage_takes_the_stages_own_options() -> None:
    command = planned("--only", "pretrain", "--stage.steps", "70", "--cluster.mfu", "0.1")
    (stage,) = command.stages
    assert (stage.name, stage.steps, command.own.cluster.mfu) == ("pretrain", 70, 0.1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--on abacus", "--on abacus: no such kind of node - there are: laptop, p4d"),
        ("--cluster.mfu 40", r"cluster.mfu: wanted within \(0, 1\], found 40"),
        ("--cluster.nodes 0", "cluster.nodes: wanted at least 1, found 0"),
        ("--cluster.gpuz 1", "Unrecognized options: --cluster.gpuz"),
        ("--images 0", "--images: wanted more than 0, found 0"),
        ("--only cats", "has no stage 'cats'"),
    ],
)
def test_a_mistake_is_one_line(argv: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        planned(*argv.split())
    assert "\n" not in str(error.value)


def test_workers_that_cannot_share_the_batch_name_the_stage() -> None:
    command = planned("--on", "p4d", "--cluster.nodes", "3")
    with pytest.raises(BadPlace, match="stage pretrain: global batch 64 = 24 workers"):
        plan(command)


def test_every_kind_of_node_is_found() -> None:
    assert all(isinstance(find_node_kind(name), NodeKind) for name in NODE_KINDS)


def test_the_plan_is_printed_without_data_ray_or_gpu(
    called: Callable[..., Said], tmp_path: Path
) -> None:
    said = called(
        planning.main,
        "plan",
        *("--recipe", "vit-h14-jft", "--on", "p4d", "--cluster.nodes", "4"),
        *("--place.data-root", str(tmp_path), "--place.max-micro-batch", "32"),
    )
    assert (said.code, said.err) == (0, "")
    assert "4 x p4d: 32 workers" in said.out
    assert "655,835,251" in said.out
    assert "settings that fit: --place.workers.min 32" in said.out
    assert "raise --place.save-every-steps" in said.out


def test_the_plan_is_json_for_machines(called: Callable[..., Said], tmp_path: Path) -> None:
    said = called(planning.main, "plan", "--json", "--place.data-root", str(tmp_path))
    content = json.loads(said.out)
    assert [stage["stage"] for stage in content["stages"]] == ["pretrain", "upscale", "finetune"]
    assert content["stages"][0]["memory"][2]["level"] == 2
    assert content["stages"][0]["mfu"] == {"share": 0.4, "source": "assumed: --cluster.mfu"}
    assert content["place_that_fits"][-2] == "--place.max-micro-batch"


def test_a_mistake_ends_with_2(called: Callable[..., Said]) -> None:
    said = called(planning.main, "plan", "--on", "abacus")
    assert (said.code, len(said.err.splitlines())) == (2, 1)
