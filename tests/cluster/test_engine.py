"""A worker's device: what the place says, whatever torch sees."""

import os

import pytest
import ray
import ray.train.torch
import torch

from cluster import engine
from cluster.engine import cuda_trouble, prepare_worker
from cluster.errors import BadPlace


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "DS_ACCELERATOR"):
        monkeypatch.setenv(name, "")  # put back afterwards, whatever the test sets


def prepare(*, local_rank: int = 1, gpu: bool) -> torch.device:
    return prepare_worker(rank=3, local_rank=local_rank, world_size=4, gpu=gpu, verbose=True)


def test_workers_without_gpus_stay_on_the_cpu_of_a_gpu_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    foreign = {"RANK": "7", "LOCAL_RANK": "5", "WORLD_SIZE": "64", "DS_ACCELERATOR": "cuda"}
    for name, value in foreign.items():  # of torchrun or SLURM
        monkeypatch.setenv(name, value)
    assert prepare(gpu=False) == torch.device("cpu")
    assert os.environ["DS_ACCELERATOR"] == "cpu"
    assert [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")] == ["3", "1", "4"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_a_worker_that_should_have_a_gpu_says_why_torch_has_none() -> None:
    with pytest.raises(BadPlace, match=r"workers.gpus is 1, .*: .*CUDA.*driver of version 580"):
        prepare(gpu=True)
    assert "CUDA" in cuda_trouble()


def test_an_old_driver_is_named_in_torchs_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12080).")

    monkeypatch.setattr(torch.cuda, "init", too_old)
    with pytest.raises(BadPlace, match=r"too old \(found version 12080\) - torch") as error:
        prepare(gpu=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [None, 10])
def test_deepspeed_gets_the_index_of_the_device_that_ray_gave(
    monkeypatch: pytest.MonkeyPatch, given: int | None
) -> None:
    made_current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_device", made_current.append)
    beside: list[torch.device] = []
    monkeypatch.setattr(engine, "stay_beside", beside.append)
    if given is not None:  # a node of 16 GPUs: Ray gave the third worker the GPU 10
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "get_gpu_ids", lambda: [given])
        monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cuda", given))
    index = 2 if given is None else given
    assert prepare(local_rank=2, gpu=True) == torch.device("cuda", index)
    assert made_current == beside == [torch.device("cuda", index)]
    assert (os.environ["LOCAL_RANK"], os.environ["DS_ACCELERATOR"]) == (str(index), "cuda")
