"""Find the tars that match a pattern: shell patterns, and webdataset's brace expansion."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from storage.errors import BadSource

_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_MOST = 1_000_000
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def matching(where: str, keys: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The tars among some names that fit one of the patterns, sorted.

    Raises BadSource if none does, or if braces name a tar that does not exist.
    """
    names = {key for key in keys if key.endswith(".tar")}
    chosen: set[str] = set()
    for pattern in patterns:
        if "{" not in pattern or pattern in names:
            chosen.update(name for name in names if fnmatchcase(name, pattern))
            continue
        each = list(expanded(pattern))
        fits = {one: {name for name in names if fnmatchcase(name, one)} if "*" in one or "?" in one
                else {one} & names for one in each}  # fmt: skip
        missing = [one for one, some in fits.items() if not some]
        if missing:
            raise BadSource(
                f"{pattern}: {len(missing)} of {len(each)} tars are not under {where}, such as "
                f"{missing[0]}"
            )
        chosen.update(*fits.values())
    if not chosen:
        raise BadSource(f"no tar under {where} matches {', '.join(patterns)}; {_there(keys)}")
    return sorted(chosen)


def expanded(pattern: str) -> Iterator[str]:
    """`a-{00..02}.tar` -> a-00.tar, a-01.tar, a-02.tar; `{a,b}.tar` -> a.tar, b.tar."""
    found = _RANGE.search(pattern) or _CHOICE.search(pattern)
    if found is None:
        yield pattern
        return
    before, after = pattern[: found.start()], pattern[found.end() :]
    if found.re is _CHOICE:
        middles = found.group(1).split(",")
    else:
        first, last = found.groups()
        if not 0 <= int(last) - int(first) < _MOST:
            raise BadSource(f"{pattern}: wanted an ascending range of at most {_MOST} numbers")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        middles = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    for middle in middles:
        yield from expanded(before + middle + after)


def _there(keys: Sequence[str]) -> str:
    names = [key for key in keys if key.endswith(".tar")]
    packed = [key for key in keys if key.endswith(_PACKED)]
    text = f"there are {len(names)}" + (f", such as {names[0]}" if names else "")
    if packed and not names:
        text += (
            f", and {len(packed)} compressed ones, such as {packed[0]}: unpack them to .tar, "
            "because samples are read by their place in the file"
        )
    return text
