"""Find the image that a foreign dataset names, in the folders that other programs put it into."""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from annotate.errors import VideoError
from annotate.items.foreign_records import shown
from annotate.video.images import IMAGE_SUFFIXES, has_image_name

_SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
_SHARED_FOLDERS = ("", "images", "data", "JPEGImages", "img", "imgs")
_ANNOTATION_FOLDERS = {"annotation", "annotations", "labels", "json"}


class ImageFinder:
    """Finds the images that one annotation file names; `split` is the split of the file.

    An image is looked for beside the file, one folder above and in `folder`, in the folders that
    are called as the split, then in `images` and the like, at last anywhere below. Leading folders
    of a name are given up one by one where they are not there, unless another image has that
    shorter name too.
    """

    def __init__(self, file: Path, folder: Path, split: str, names: Iterable[str]) -> None:
        self.file, self.folder, self.split = file, folder, split
        tails = (tail for name in set(names) for tail in _tails(name))
        self._entries_of_tail = Counter(tail.casefold() for tail in tails)

    def find(self, name: str) -> Path:
        """Find the image of a recorded name.

        Raises:
            VideoError: it is not there, or several different images could be meant.
        """
        for number, tail in enumerate(_tails(name)):
            if number and self._entries_of_tail[tail.casefold()] > 1:
                break  # as likely the image of another entry
            for paths in self._candidates(tail):
                if found := self._same_image(name, paths):
                    return found
        hint = self._roots[0] / "images"
        raise VideoError(f"image {shown(name)} not found; put it into {hint}")

    def _same_image(self, name: str, paths: Iterable[Path]) -> Path | None:
        """Return the image if all paths that exist have the same content.

        Raises:
            VideoError: they differ.
        """
        existing = {os.path.realpath(path): path for path in paths if _is_file(path)}
        if not existing:
            return None
        first, *others = existing.values()
        for other in others:
            if not filecmp.cmp(first, other, shallow=False):
                raise VideoError(
                    f"image {shown(name)} could be {first} or {other}; keep one of them, or "
                    "write the folder into its file_name"
                )
        return first

    def _candidates(self, tail: str) -> Iterator[list[Path]]:
        """Yield the paths that may be meant, the most likely first; those in a list are equal."""
        for names in self._split_folders:
            yield [
                folder / tail
                for root in self._roots
                for name in names
                for folder in (root / name, root / "images" / name, root / name / "images")
            ]
        yield [self.file.parent / tail]
        yield [root / shared / tail for root in self._roots for shared in _SHARED_FOLDERS]
        parts = PurePosixPath(tail.casefold()).parts
        below = self._images_below.get(parts[-1] if parts else "", [])
        yield [
            path for path in below if tuple(map(str.casefold, path.parts))[-len(parts) :] == parts
        ]

    @cached_property
    def _roots(self) -> list[Path]:
        return [*dict.fromkeys([self.file.parent, self.file.parent.parent, self.folder])]

    @cached_property
    def _split_folders(self) -> list[tuple[str, ...]]:
        """The names of folders of this split: as the file says it, then other words for it."""
        words = [word for word in self.file.stem.split("_") if word] + [self.file.stem]
        return [tuple(words), (self.split, *_SPLIT_FOLDERS.get(self.split, ()))]

    @cached_property
    def _images_below(self) -> dict[str, list[Path]]:
        """All images below the folder of the dataset, by their names in lower case."""
        top = self.folder
        if top == self.file.parent and top.resolve().name.casefold() in _ANNOTATION_FOLDERS:
            top = top.resolve().parent
        images: dict[str, list[Path]] = {}
        for folder, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                    images.setdefault(name.casefold(), []).append(Path(folder, name))
        return images


def images_beside(found: Iterable[Path], folder: Path | None) -> list[Path]:
    """List the other images in the folders of some images, and anywhere below `folder`.

    Files that an image of `found` links to, and names that begin with a dot, are not listed.
    """
    found = set(found)
    known = {os.path.realpath(path) for path in found}
    places = sorted({path.parent for path in found})
    if folder is not None:
        places += [Path(place) for place, _, _ in os.walk(folder)]
    others: dict[str, Path] = {}
    for place in dict.fromkeys(places):
        for path in _list_folder(place):
            if path in found or not has_image_name(path.name):
                continue
            if (real := os.path.realpath(path)) not in known and _is_file(path):
                others.setdefault(real, path)
    return list(others.values())


def _list_folder(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # it may not be read
        return []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or no name of a file
        return False


def _tails(name: str) -> Iterator[str]:
    """Yield a recorded name, then without its leading folders; also decoded as part of a URL."""
    for text in dict.fromkeys([name, unquote(name)]):
        recorded = PurePosixPath(text.replace("\\", "/"))
        for start in range(len(recorded.parts)):
            yield str(PurePosixPath(*recorded.parts[start:]))
