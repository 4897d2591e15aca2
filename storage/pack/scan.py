"""Scan one existing tar from front to back: index rows of its samples, and a checksum.

A sample is an image and a label with the same key: `KEY.jpg` (.jpeg .png .webp) and what
`labels.py` reads, anywhere in the tar. Samples that cannot be used are left out and named.
"""

import io
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from storage.dataset import Shard
from storage.decode import MAX_PIXELS, probe
from storage.errors import BadImage, BadSource, printable
from storage.index import INDEX_ROW, name_hash
from storage.objects import open_store
from storage.pack.labels import Labels, Unlabelled
from storage.pack.object_stream import CHUNK_BYTES, ObjectStream
from storage.pack.parts import Part, write_part
from storage.pack.source import hash_of
from storage.tar import Member, members

_LAYOUT = "tar 2"  # changes with what is read from a tar
_IMAGES = ("jpg", "jpeg", "png", "webp")
_NO_NAME = "\0"  # no member's name begins with it
_SHORT_LABEL, _MANY_LABELS, _MANY_PLANS = 32, 1 << 16, 1 << 10
Row = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class ScanTar:
    """A task: called with a tar's name, it reads the tar once and writes its part."""

    uri: str
    """URI of the tars."""
    parts: str
    """URI that the parts are written to."""
    labels: Labels = field(default_factory=Labels)
    image_key: str | None = None
    """Suffix of the image, if a sample has several."""
    max_pixels: int = MAX_PIXELS

    @property
    def identity(self) -> str:
        """Hash for the parts, which changes with what is read from a tar."""
        rule = hash_of(self.uri, self.labels.identity(), str(self.image_key), str(self.max_pixels))
        return f"{_LAYOUT} {rule}"

    def __call__(self, name: str) -> tuple[Shard, str | None]:
        """Scan a tar: the shard, and why it is damaged or None. An intact one gets its part."""
        stream = ObjectStream(open_store(self.uri), name)
        scan = _Scan(rule=self)
        read = io.BufferedReader(stream, CHUNK_BYTES).read  # in C, for four reads a sample
        try:
            for member in members(read):
                scan.add(member)
        except BadSource as error:
            return Shard(name=name, bytes=stream.size, samples=0, sha256=""), str(error)
        scan.finish()
        shard = Shard(
            name=name,
            bytes=stream.size,
            samples=len(scan.rows),
            sha256=stream.sha256(),
        )
        part = Part(
            identity=self.identity,
            shard=shard,
            rows=np.array(sorted(scan.rows), dtype=INDEX_ROW),  # by place
            left_out=tuple((f"{name}: {what}", why) for what, why in scan.left_out),
            notes=tuple(scan.notes.items()),
        )
        write_part(open_store(self.parts), part)
        return shard, None


class _Image(NamedTuple):
    """Index data of an image whose label has not been read yet."""

    offset: int
    name: int
    size: int
    crc: int
    refusal: str | None


class _Plan(NamedTuple):
    """What the rule makes of a set of suffixes; the same few sets come again and again."""

    labelled: list[str]
    """Suffixes of members that may contain the label."""
    pictured: list[str]
    """Suffixes of images."""
    image: str
    """Suffix of the sample's image; empty if it has none."""
    refusal: str | None
    """Why there is no image, or which of several it is cannot be said."""
    notes: tuple[str, ...]


Group = dict[str, Member | _Image]  # the members of one key, by suffix


@dataclass
class _Scan:
    """State of the scan of one tar."""

    rule: ScanTar
    rows: list[Row] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    _key: str = ""
    _start: str = _NO_NAME
    """How names of the current key begin, once it has a member that can be used."""
    _group: Group = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)
    _waiting: dict[str, Group] = field(default_factory=dict)
    """Keys whose image or label has not been read yet."""
    _plans: dict[tuple[str, ...], _Plan] = field(default_factory=dict)
    """What each set of suffixes means, by the rule."""
    _labels: dict[tuple[str, bytes], tuple[int, str | None]] = field(default_factory=dict)
    """What short labels mean, by suffix and text."""

    def add(self, member: Member) -> None:
        """Process the next member."""
        if member.refused is None and member.name.startswith(self._start):  # most of them
            suffix = member.name[len(self._start) :].lower()
            if suffix not in self._group and "/" not in suffix:
                self._group[suffix] = member
                return
        folder, slash, base = member.name.rpartition("/")
        if base.startswith("._") or (folder and "__MACOSX" in folder.split("/")):
            self.notes["members that macOS adds (._*) ignored"] += 1
            return
        if member.refused is not None:
            self.left_out.append((printable(member.name), member.refused))
            return
        stem, _, suffix = base.partition(".")  # WebDataset's rule: at the first dot
        key, suffix = folder + slash + stem, suffix.lower()
        if key != self._key:
            self._put_aside()
            self._key, self._group = key, self._waiting.pop(key, {})
            self._start = _NO_NAME
            if self._group:
                self.notes["samples whose members lie apart in their tar"] += 1
        if key in self._done or suffix in self._group:
            self.left_out.append((printable(member.name), "a sample of this key came before"))
            return
        self._group[suffix] = member
        self._start = key + "."

    def finish(self) -> None:
        """Finish after the last member."""
        self._put_aside()
        for key, group in self._waiting.items():
            self._add_sample(key, group, self._plan(group))

    def _put_aside(self) -> None:
        """Handle a change of key: the group is complete, or put aside until more of it follows."""
        group = self._group
        if not group:
            return
        plan = self._plan(group)
        if plan.labelled and plan.pictured:
            self._done.add(self._key)
            self._add_sample(self._key, group, plan)
        elif plan.labelled or plan.pictured:
            for suffix in plan.pictured:
                group[suffix] = self._image(group[suffix])
            self._waiting[self._key] = group
        # a README is no lost sample

    def _add_sample(self, key: str, group: Group, plan: _Plan) -> None:
        """Add the index row of one sample, or why it is left out."""
        if plan.notes:
            self.notes.update(plan.notes)
        try:
            if plan.refusal is not None:
                raise Unlabelled(plan.refusal)
            label, note = self._label(group, plan.labelled)
            image = self._image(group[plan.image])
            if image.refusal is not None:
                raise Unlabelled(image.refusal)
        except Unlabelled as error:
            self.left_out.append((printable(key), str(error)))
            return
        if note:
            self.notes[note] += 1
        self.rows.append((image.offset, image.name, image.size, image.crc, 0, label))

    def _plan(self, group: Group) -> _Plan:
        """What the rule makes of the members of a key."""
        suffixes = tuple(group)
        plan = self._plans.get(suffixes)
        if plan is None:
            labelled = [suffix for suffix in group if self.rule.labels.names(suffix)]
            pictured = [suffix for suffix in group if self._is_picture(suffix)]
            plan = _Plan(labelled, pictured, *self._choice(suffixes, pictured))
            if len(self._plans) < _MANY_PLANS:
                self._plans[suffixes] = plan
        return plan

    def _is_picture(self, suffix: str) -> bool:
        return suffix == self.rule.image_key or suffix.rpartition(".")[2] in _IMAGES

    def _choice(
        self, suffixes: tuple[str, ...], found: list[str]
    ) -> tuple[str, str | None, tuple[str, ...]]:
        """Which of the images found is the sample's, why none is, and notes."""
        if self.rule.image_key is not None:
            there = self.rule.image_key in suffixes
            return self.rule.image_key, None if there else f"no image .{self.rule.image_key}", ()
        if not found:
            return "", "no image", ()
        plain = [suffix for suffix in found if "." not in suffix]
        if len(plain) == 1:
            others = (suffix for suffix in found if suffix != plain[0])
            notes = (f"members .{other} beside the image ignored" for other in others)
            return plain[0], None, tuple(notes)
        if plain:
            return "", f"{len(plain)} images under one key: say --image-key", ()
        if len(found) > 1:
            some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            refusal = (
                f"dotted names ({some}) share one key: say --image-key if they are one sample, "
                "rename them if they are several"
            )
            return "", refusal, ()
        return found[0], None, (f"images read from .{found[0]}",)

    def _label(self, group: Group, labelled: list[str]) -> tuple[int, str | None]:
        """The label and a note about it; short ones come again and again. Raises Unlabelled."""
        member = group[labelled[0]] if len(labelled) == 1 else None
        if isinstance(member, Member) and len(member.data) <= _SHORT_LABEL:
            known = (labelled[0], member.data)
            found = self._labels.get(known)
            if found is None:
                found = self.rule.labels.of({known[0]: known[1]})
                if len(self._labels) < _MANY_LABELS:
                    self._labels[known] = found
            return found
        return self.rule.labels.of(
            {suffix: m.data for suffix in labelled if isinstance(m := group[suffix], Member)}
        )

    def _image(self, found: Member | _Image) -> _Image:
        if isinstance(found, _Image):
            return found
        refusal = None
        try:
            header = probe(found.data, max_pixels=self.rule.max_pixels, advice="--max-pixels")
            if header.frames > 1:
                self.notes[f"first of {header.frames} pictures of an MPO taken"] += 1
        except BadImage as error:
            refusal = str(error)
        name, crc = name_hash(found.header_name), zlib.crc32(found.data)
        return _Image(found.offset, name, len(found.data), crc, refusal)
