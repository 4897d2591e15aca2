"""What is said of a worker's error, out of the text that Ray makes of it."""

import pytest

from pipelines.cli.exits import Failed
from pipelines.cli.ray_errors import explain_failure, is_mistake, root_cause
from storage.errors import BadInput

RAY = "ray::train() (pid=1, ip=127.0.0.1)\n  File x, line 1\n"


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("storage.errors.BadSample: shard a", "BadSample", "shard a"),
        ("ValueError: invalid literal", "ValueError", "invalid literal"),
        (
            "ValueError: invalid literal\nNote: a hint of the library",
            "ValueError",
            "invalid literal",
        ),
        ("RuntimeError: Expected: 3", "RuntimeError", "Expected: 3"),
        ("torch.OutOfMemoryError: CUDA out of memory", "OutOfMemoryError", "CUDA out of memory"),
    ],
)
def test_the_class_is_the_one_that_was_raised(text: str, name: str, message: str) -> None:
    assert root_cause(RuntimeError(RAY + text)) == (name, message)


@pytest.mark.parametrize(
    "text",
    [
        "storage.errors.BadDataset: odd",
        "cluster.errors.BadPlace: odd",
        "vit.errors.BadModel: odd",
        "pipelines.recipes.errors.Mistake: odd",
    ],
)
def test_a_workers_mistake_is_the_users_and_is_not_tried_again(text: str) -> None:
    error = RuntimeError(RAY + text)
    assert is_mistake(error)
    explained = explain_failure("pretrain", error)
    assert isinstance(explained, BadInput)
    assert str(explained) == "stage pretrain: odd"


def test_any_other_error_of_a_worker_is_the_worlds() -> None:
    error = RuntimeError(RAY + "ValueError: odd")
    assert not is_mistake(error)
    explained = explain_failure("pretrain", error)
    assert isinstance(explained, Failed)
    assert str(explained) == "stage pretrain failed: ValueError: odd"


NESTED = """\x1b[36mray::SplitCoordinator.get()\x1b[39m (pid=28797, ip=10.0.0.2)
  File "/x/ray/data/iterator.py", line 301, in get
ray.exceptions.RayTaskError(BadSample): \x1b[36mray::MapBatches(_blocks)()\x1b[39m (pid=28735)
  File "/x/storage/stream.py", line 230, in _samples
storage.errors.BadSample: train-000000.tar: sample 000012: is no JPEG, PNG or WebP
Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).
To change retry attempts, configure `ray.data.DataContext.get_current()` if you believe this."""


def test_the_innermost_error_is_found_under_rays_wrapping() -> None:
    assert root_cause(RuntimeError(NESTED)) == (
        "BadSample",
        "train-000000.tar: sample 000012: is no JPEG, PNG or WebP",
    )


def test_an_unknown_failure_is_its_last_line() -> None:
    assert root_cause(OSError("first\n\nthe worker died\n")) == ("OSError", "the worker died")
