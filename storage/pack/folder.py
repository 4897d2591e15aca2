"""A folder with one folder per class, as in ImageNet; original bytes are stored, not re-encoded.

`<folder>/<class>/image.jpg` is split by hash of its name; `<folder>/{train,val,test}/<class>/...`
keeps its splits (`tree.py`, `split_names.py`). Formats that the stream does not read become PNG.
Files that are not images, cannot be read or link out of the folder are left out and named.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from storage.errors import BadSource
from storage.pack.image_files import ImageFiles, hold_out
from storage.pack.source import check_splits
from storage.pack.split_names import split_of
from storage.pack.stored import Rule
from storage.pack.tree import (
    class_folders,
    count_ignored,
    files_below,
    folders_of,
    has_images,
    inner,
    splits_of,
)


class Folder(ImageFiles):
    """A class-per-folder tree of images."""

    def __init__(
        self,
        folder: str | Path,
        *,
        validation_fraction: float | None = None,
        class_level: int | None = None,
        rule: Rule = Rule(),  # noqa: B008  frozen
    ) -> None:
        super().__init__(Path(folder).absolute(), rule)
        if not self._root.is_dir():
            raise BadSource(f"{folder} is not a folder")
        if class_level is not None and class_level < 1:
            raise BadSource(f"--class-level {class_level}: wanted at least 1")
        self._ignored = Counter[str]()
        base = inner(self._root)
        split_folders = self._splits(base, validation_fraction)
        tops = {split: inner(base / name) for split, name in split_folders.items()}
        tops = tops or {"train": base}
        each = {split: class_folders(top, class_level) for split, top in tops.items()}
        self._classes = self._class_names(tops, each)
        images = {split: self._images(folders) for split, folders in each.items()}
        held = {} if "val" in each else hold_out(images["train"], validation_fraction)
        self._take(held | {split: some for split, some in images.items() if split not in held})
        self._note_oddities(tops)
        check_splits(str(folder), self.splits)

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
        self._note_classes()
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


def _is_flat_test(folder: Path) -> bool:
    """Whether a folder is a test split without classes, as in competitions."""
    return split_of(folder.name) == "test" and not folders_of(folder)
