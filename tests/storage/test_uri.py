from pathlib import Path

import pytest

from storage.errors import BadUri
from storage.uri import join, parse


def test_local_path_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(parse("data/digits")) == f"{tmp_path}/data/digits"


def test_file_uri_is_its_path() -> None:
    assert str(parse("file:///a/b%20c")) == "/a/b c"


@pytest.mark.parametrize(
    "uri", ["file:///data/run#1", "file:///data/run?x", "file:///a#", "file:?"]
)
def test_what_ends_the_path_of_a_file_uri_is_refused(uri: str) -> None:
    """It was dropped without a word: run#1 and run#2 would both be `run`."""
    with pytest.raises(BadUri, match="%3F and %23"):
        parse(uri)


def test_the_same_characters_are_kept_where_they_are_part_of_the_name() -> None:
    assert str(parse("file:///data/run%231%3F")) == "/data/run#1?"
    assert str(parse("/data/run#1?")) == "/data/run#1?"
    assert parse("s3://bucket/run#1?x").path == "run#1?x"


def test_s3_uri_splits_into_bucket_and_prefix() -> None:
    place = parse("s3://bucket/a//b/")
    assert (place.bucket, place.path) == ("bucket", "a/b")


@pytest.mark.parametrize(
    ("uri", "parts", "joined"),
    [
        ("s3://b", ("x",), "s3://b/x"),
        ("s3://b/runs/", ("x", "manifest.json"), "s3://b/runs/x/manifest.json"),
        ("/a", ("b/c",), "/a/b/c"),
        ("/", ("b",), "/b"),
        ("s3://b/runs", (), "s3://b/runs"),
    ],
)
def test_join(uri: str, parts: tuple[str, ...], joined: str) -> None:
    assert join(uri, *parts) == joined


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("pipe:curl example.org | sh", "'pipe'"),
        ("http://host/x.tar", "'http'"),
        ("gs://bucket/x", "'gs'"),
        ("s3:/bucket/x", "two slashes"),
        ("s3://Bucket_/x/../y", "bucket name"),
        ("s3://bucket/x/../y", "'..'"),
        ("file://elsewhere/x", "absolute path"),
        ("", "empty"),
    ],
)
def test_other_places_are_refused_by_name(uri: str, named: str) -> None:
    with pytest.raises(BadUri, match=r"accepted|not allowed in a key") as caught:
        parse(uri)
    assert named in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://KEY:hunter2@bucket/x", "https://me:hunter2@host/x"])
def test_a_password_in_a_uri_is_not_repeated(uri: str) -> None:
    with pytest.raises(BadUri) as caught:
        parse(uri)
    assert "hunter2" not in str(caught.value)


def test_join_does_not_climb() -> None:
    with pytest.raises(BadUri, match=r"\.\."):
        join("s3://bucket/runs", "../other")
