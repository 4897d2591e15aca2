from pipelines.cli.ray_errors import root_cause

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
