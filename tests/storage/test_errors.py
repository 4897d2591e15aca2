import inspect
import pickle

from storage import errors


def test_every_error_is_drawn_in_the_tree() -> None:
    tree = errors.__doc__ or ""
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    assert len(classes) > 10
    for error in classes:
        assert issubclass(error, errors.StorageError)
        assert error.__name__ in tree


def test_bad_sample_survives_pickling() -> None:  # it crosses from a Ray task to the driver
    error = pickle.loads(pickle.dumps(errors.BadSample("train-000000.tar", "a/b", "too big")))
    assert (error.shard, error.key, error.reason) == ("train-000000.tar", "a/b", "too big")
    assert str(error) == "bad sample 'a/b' in train-000000.tar: too big"
