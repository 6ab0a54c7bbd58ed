"""Report what an import read, and what it left out or read in one of several ways."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from annotate.errors import DatasetError

_DAMAGED = "an annotation of theirs is damaged"
_UNLABELLED = "they have no annotation, and there are annotations of no known image"


@dataclass
class Notice:
    """What happened to some records of a foreign dataset: how often, and where first."""

    count: int = 0
    example: str = ""

    def add(self, where: str) -> None:
        """Count one more record; the first place is the example."""
        self.example = self.example or where
        self.count += 1


@dataclass
class ImportReport:
    """The counts of an import: what was read, and each record that was not read as it stands.

    A reader of a format fills the report while its samples are read. `images` and `objects` were
    imported. `unlabelled_images` have no label file and were imported without objects;
    `unmatched_labels` are of no imported image. `unlisted_images` are beside the imported ones, but
    the dataset does not list them. `skipped_images` and `skipped_rows` were
    left out, by reason. `notes` are sentences about the whole dataset, such as which of two
    readings was taken; `notices` are sentences about single records, with their counts.
    `damaged_images` are those of the skipped images that are damaged, or their annotations are.
    """

    images: int = 0
    objects: int = 0
    unlabelled_images: Notice = field(default_factory=Notice)
    unmatched_labels: Notice = field(default_factory=Notice)
    unlisted_images: Notice = field(default_factory=Notice)
    skipped_images: dict[str, Notice] = field(default_factory=dict)
    skipped_rows: dict[str, Notice] = field(default_factory=dict)
    notices: dict[str, Notice] = field(default_factory=dict)
    damaged_images: Notice = field(default_factory=Notice)
    notes: list[str] = field(default_factory=list)

    def skip_image(self, reason: str, where: str) -> None:
        """Count an image that is not imported; `reason` completes "left out, because ..."."""
        self.skipped_images.setdefault(reason, Notice()).add(where)

    def skip_damaged_image(
        self, where: str, rows: Iterable[str] = (), reason: str = _DAMAGED
    ) -> None:
        """Count an image that is damaged, or has a damaged annotation, and all its annotations.

        Without them it would be an image with fewer objects than it has, or with none. `rows` are
        the places of the annotations that are left out with it.
        """
        self.skip_image(reason, where)
        self.damaged_images.add(where)
        self.skip_rows_of_image(rows)

    def skip_unlabelled_image(self, where: str) -> None:
        """Count an image without annotations, while some annotations are of no known image."""
        self.skip_damaged_image(where, reason=_UNLABELLED)

    def skip_rows_of_image(self, rows: Iterable[str]) -> None:
        """Count the annotations of an image that is left out; `rows` are their places."""
        for row in rows:
            self.skip_row("their image is left out", row)

    def check_damaged_images(self, image_count: int) -> None:
        """Refuse a dataset of which more than half of the images are damaged.

        Raises:
            DatasetError: names the first one, and the number of them.
        """
        damaged = self.damaged_images
        if 2 * damaged.count > image_count:
            others = f" ({damaged.count} of {image_count} images are damaged)"
            raise DatasetError(damaged.example + others * (image_count > 1))

    def skip_row(self, reason: str, where: str) -> None:
        """Count an annotation that is not imported; `reason` completes "left out, because ..."."""
        self.skipped_rows.setdefault(reason, Notice()).add(where)

    def notice(self, sentence: str, where: str) -> None:
        """Count a record that was imported in another way than it stands in the source."""
        self.notices.setdefault(sentence, Notice()).add(where)

    def note(self, sentence: str) -> None:
        """Add a sentence about the whole dataset, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def warnings(self) -> list[str]:
        """List a line for each kind of record that was not read as it stands."""
        lines = list(self.notes)
        if self.unlabelled_images.count:
            lines.append(
                f"{_count(self.unlabelled_images, 'image')} without a label file, imported as "
                f"without objects: {_examples(self.unlabelled_images)}"
            )
        if self.unmatched_labels.count:
            lines.append(
                f"{_count(self.unmatched_labels, 'label file')} of no imported image: "
                f"{_examples(self.unmatched_labels)}"
            )
        if self.unlisted_images.count:
            lines.append(
                f"{_count(self.unlisted_images, 'image')} in these folders not listed by the "
                f"dataset, and not imported: {_examples(self.unlisted_images)}"
            )
        for noun, skipped in (("image", self.skipped_images), ("object", self.skipped_rows)):
            lines += [
                f"{_count(notice, noun)} left out, because {reason}: {_examples(notice)}"
                for reason, notice in skipped.items()
            ]
        lines += [
            f"{_count(notice, 'record')}: {sentence}: {_examples(notice)}"
            for sentence, notice in self.notices.items()
        ]
        return lines

    def lines(self) -> list[str]:
        """List the warnings, and the counts of what was imported."""
        images = f"{self.images} image{'s' * (self.images != 1)}"
        objects = f"{self.objects} object{'s' * (self.objects != 1)}"
        return [*self.warnings(), f"imported {images} with {objects}"]


def _count(notice: Notice, noun: str) -> str:
    return f"{notice.count} {noun}{'s' * (notice.count != 1)}"


def _examples(notice: Notice) -> str:
    return notice.example if notice.count == 1 else f"{notice.example} and {notice.count - 1} more"
