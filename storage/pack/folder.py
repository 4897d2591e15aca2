"""A folder with one folder per class, as in ImageNet; original bytes are stored, not re-encoded.

`<folder>/<class>/image.jpg` is split by hash of its name; `<folder>/{train,val,test}/<class>/...`
keeps its splits (`tree.py`, `split_names.py`). Formats that the stream does not read become PNG.
Files that are not images, cannot be read or link out of the folder are left out and named.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from storage.errors import BadImage, BadSource
from storage.index import name_hash
from storage.pack.listing import Listing
from storage.pack.source import LeftOut, Sample, Source, check_splits, gone, is_validation
from storage.pack.split_names import split_of
from storage.pack.stored import Rule
from storage.pack.tree import (
    IMAGE_SUFFIXES,
    alike,
    class_folders,
    count_ignored,
    files_below,
    folders_of,
    has_images,
    inner,
    splits_of,
)
from storage.resized import Resized

VALIDATION_FRACTION = 0.1
_UNREADABLE = -1  # instead of the size of a file whose size cannot be read


class Folder(Source):
    """A class-per-folder tree of images."""

    def __init__(
        self,
        folder: str | Path,
        *,
        validation_fraction: float | None = None,
        class_level: int | None = None,
        rule: Rule = Rule(),  # noqa: B008  frozen
    ) -> None:
        self._root = Path(folder).absolute()
        self._rule = rule
        if not self._root.is_dir():
            raise BadSource(f"{folder} is not a folder")
        if class_level is not None and class_level < 1:
            raise BadSource(f"--class-level {class_level}: wanted at least 1")
        self._notes: dict[str, int] = {}
        self._ignored = Counter[str]()
        base = inner(self._root)
        split_folders = self._splits(base, validation_fraction)
        tops = {split: inner(base / name) for split, name in split_folders.items()}
        tops = tops or {"train": base}
        each = {split: class_folders(top, class_level) for split, top in tops.items()}
        self._classes = self._class_names(tops, each)
        self._files = {}
        if "val" not in each:
            held: dict[bool, list[tuple[int, str]]] = {False: [], True: []}
            fraction = VALIDATION_FRACTION if validation_fraction is None else validation_fraction
            for label, name in self._images(each.pop("train")):
                held[_is_held(name, fraction)].append((label, name))
            self._files = {"train": self._listing(held[False]), "val": self._listing(held[True])}
        for split, folders in each.items():
            self._files[split] = self._listing(self._images(folders))
        self._shared_keys = {split: _shared_keys(files) for split, files in self._files.items()}
        self._note_oddities(tops)
        check_splits(str(folder), self.splits)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class folders, sorted."""
        return self._classes

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of files in train, val and, if it exists beside val, test."""
        return {name: len(files) for name, files in self._files.items()}

    @property
    def notes(self) -> Mapping[str, int]:
        """What was ignored, and how the folders were interpreted."""
        return self._notes

    @property
    def resized(self) -> Resized | None:
        """How large images are made smaller, by the rule."""
        return self._rule.resized

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folder."""
        return (self._root,)

    def identity(self) -> str:
        """Hash of names, sizes and times of change."""
        parts = [files.identity() for files in self._files.values()]
        return "/".join([*parts, self._rule.identity()]).rstrip("/")

    def read(self, split: str, i: int) -> Sample:
        """One file, its header checked."""
        name = self._files[split].name(i)
        label, size, _ = self._files[split].about(i)
        path = self._root / name
        if not _is_utf8(name):
            raise LeftOut(ascii(name), "its name is not UTF-8")
        known = path.suffix.lower()
        if known not in IMAGE_SUFFIXES:
            raise LeftOut(
                name, "not the name of an image file (.jpg, .png, .webp, .bmp, .tif, ...)"
            )
        if path.is_symlink() and not path.resolve().is_relative_to(self._root.resolve()):
            raise LeftOut(name, "a link that leads out of the folder")
        try:
            stored = self._rule(path.read_bytes())
        except FileNotFoundError:
            if size != _UNREADABLE:
                raise gone(path) from None
            raise LeftOut(name, "a link to a missing file") from None
        except OSError as error:
            raise LeftOut(name, f"cannot be read ({error.strerror})") from None
        except BadImage as error:
            raise LeftOut(name, str(error)) from None
        key = _key(name)
        if name_hash(key) in self._shared_keys[split]:
            key = f"{key}-{name_hash(name):016x}"
        # a PNG that is called .jpg is stored as .jpg, so that the digests of datasets do not change
        suffix = stored.suffix if stored.notes else IMAGE_SUFFIXES[known] or stored.suffix
        return Sample(key=key, suffix=suffix, data=stored.data, label=label, notes=stored.notes)

    def _splits(self, base: Path, validation_fraction: float | None) -> dict[str, str]:
        """Split -> folder. If a fraction is given, a test folder without val is the test split."""
        found = splits_of(base)
        if not found:
            return found
        flat = [split for split, name in found.items() if _is_flat_test(base / name)]
        for name in [found.pop(split) for split in flat]:
            self._notes[f"{name}/ has no class folders, so no labels: ignored"] = 1
        from_test = "val" in found and split_of(found["val"]) == "test"
        if from_test and validation_fraction is not None:
            found["test"] = found.pop("val")
        elif from_test:
            self._notes[
                f"{found['val']}/ is the validation split; --validation-fraction 0.1 would keep it "
                "as `test` and hold out a part of the training images"
            ] = 1
        if "val" not in found:
            self._notes[f"no validation folder: a part of {found['train']}/ is held out"] = 1
        others = [name for name in folders_of(base) if name not in found.values()]
        others = [name for name in others if split_of(name) != "test"]
        if others:
            self._notes[f"no part of a split, ignored: {', '.join(others[:5])}"] = len(others)
        return found

    def _class_names(
        self, tops: Mapping[str, Path], each: Mapping[str, Mapping[str, list[Path]]]
    ) -> tuple[str, ...]:
        """Classes of the first split. Others may lack some; raises BadSource if they have more."""
        first = next(iter(each))
        names = each[first]
        for split, folders in each.items():
            if odd := sorted(set(folders) - set(names)):
                odd = sorted(set(folders) ^ set(names))
                raise BadSource(
                    f"{tops[first]} and {tops[split]} differ in their classes: {', '.join(odd[:5])}"
                )
            if lacking := sorted(set(names) - set(folders)):
                some = ", ".join(lacking[:5])
                self._notes[f"classes that {tops[split].name}/ has no folder of: {some}"] = len(
                    lacking
                )
        return tuple(names)

    def _note_oddities(self, tops: Mapping[str, Path]) -> None:
        for top in {self._root, *tops.values()}:
            count_ignored(top, self._ignored)
            if has_images(top):
                self._notes[f"images in {top} itself belong to no class: left out"] = 1
        for what, count in sorted(self._ignored.items()):
            self._notes[f"{what} ignored"] = count
        for one, other in alike(self._classes)[:5]:
            self._notes[f"classes {one!r} and {other!r} differ in case or accents only"] = 1
        if len(self._classes) == 1:
            self._notes[f"only one class ({self._classes[0]!r}): there is nothing to classify"] = 1
        seen = {int(label) for files in self._files.values() for label in files.numbers[:, 0]}
        if empty := [name for i, name in enumerate(self._classes) if i not in seen]:
            named = ", ".join(empty[:5])
            self._notes[
                f"classes without a file, which a model gets an output for all the same: {named}"
            ] = len(empty)

    def _images(self, folders: Mapping[str, list[Path]]) -> Iterator[tuple[int, str]]:
        """(label, path below the root) of every file of every class, sorted."""
        for label, name in enumerate(self._classes):
            found = (
                path.relative_to(self._root).as_posix()
                for top in folders.get(name, ())
                for path in files_below(top, self._ignored)
            )
            yield from ((label, path) for path in sorted(found))

    def _listing(self, files: Iterable[tuple[int, str]]) -> Listing:
        """Columns: label, bytes, time of change in nanoseconds."""
        pairs = ((name, (label, *_size_and_time(self._root / name))) for label, name in files)
        return Listing.of(pairs, columns=3)


def _is_flat_test(folder: Path) -> bool:
    """Whether a folder is a test split without classes, as in competitions."""
    return split_of(folder.name) == "test" and not folders_of(folder)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return _UNREADABLE, 0
    return found.st_size, found.st_mtime_ns


def _is_held(name: str, fraction: float) -> bool:
    return is_validation(name.encode("utf-8", "replace").decode(), fraction=fraction)


def _is_utf8(name: str) -> bool:
    return not any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)


def _key(name: str) -> str:
    """Turn a path into a WebDataset key: without dots, which would end the key."""
    return name.rpartition(".")[0].replace(".", "_").replace(" ", "_")


def _shared_keys(files: Listing) -> frozenset[int]:
    """Hashes of the keys that several files would share: a.jpg beside a.png."""
    hashes = (name_hash(_key(name)) for name in files if _is_utf8(name))
    keys, counts = np.unique(np.fromiter(hashes, np.uint64), return_counts=True)
    return frozenset(keys[counts > 1].tolist())
