"""Classes of annotations: their colours, and which label a class has: in-target or not, or one of several."""

from __future__ import annotations

import colorsys
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from wsipipe.annotations.points import IN_TARGET, OUT_OF_TARGET
from wsipipe.errors import AnnotationError

DEFAULT_POSITIVE = ("Tumor", "Foreground", "Positive")
DEFAULT_NEGATIVE = ("Other", "Stroma", "Background", "Negative", "Ignore*")
_REGEX = "re:"

Color = tuple[int, int, int]
"""RGB, 0 to 255."""


@dataclass(frozen=True)
class TissueClass:
    """A class that a model tells from others.

    Parameters
    ----------
    name : str
        As QuPath shows it.
    color : (int, int, int)
        RGB, 0 to 255.
    """

    name: str
    color: Color

    @classmethod
    def of(cls, told: object) -> Self:
        """Class from what `dataclasses.asdict` makes of one, as files keep it.

        Raises
        ------
        ValueError
            It is no class.
        """
        match told:
            case {"name": str(name), "color": [int(red), int(green), int(blue)]}:
                return cls(name, (red, green, blue))
            case _:
                raise ValueError(f"{told!r} is no class with a name and a colour")


def class_color(name: str | None) -> Color:
    """Colour of a class.

    Parameters
    ----------
    name : str or None
        Class; the case does not matter. None: no class.

    Returns
    -------
    (int, int, int)
        RGB, 0 to 255: QuPath's colour for the classes that QuPath knows, otherwise a strong colour that depends on
        nothing but the name, so that it is the same in every run and on every machine.
    """
    known = {
        "": (128, 128, 128),
        "tumor": (200, 0, 0),
        "stroma": (150, 200, 150),
        "immune cells": (160, 90, 160),
        "necrosis": (50, 50, 50),
        "other": (255, 200, 0),
        "ignore*": (180, 180, 180),
    }
    key = _plain(name or "")
    return known[key] if key in known else _hashed_color(key)


def _hashed_color(key: str) -> Color:
    digest = hashlib.sha256(key.encode()).digest()
    hue, saturation, value = digest[0] / 256, 0.6 + digest[1] / 640, 0.65 + digest[2] / 730
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


@dataclass(frozen=True)
class ClassMap:
    """Which classes are in-target and which are out-of-target.

    Parameters
    ----------
    positive, negative : tuple of str
        Patterns of in-target and out-of-target classes. A pattern is a class name, in which `*` stands for any text
        and `?` for any character (so "Ignore*" covers QuPath's class "Ignore*", and "Ignore" too); or "re:" and a
        regular expression for the whole name. The case and spaces around a name do not matter.

    Raises
    ------
    AnnotationError
        A pattern is empty, is no regular expression, or stands on both sides.

    Notes
    -----
    QuPath's derived classes ("Tumor: Positive") go by their full name first; where no pattern fits that, by their
    base class ("Tumor"). The names "1" and "0", which tables use, stand for in-target and out-of-target unless a
    pattern claims them.
    """

    positive: tuple[str, ...] = DEFAULT_POSITIVE
    negative: tuple[str, ...] = DEFAULT_NEGATIVE

    def __post_init__(self) -> None:
        for pattern in (*self.positive, *self.negative):
            _compiled(pattern)
        both = {_plain(pattern) for pattern in self.positive} & {_plain(pattern) for pattern in self.negative}
        if both:
            raise AnnotationError(
                f"{_quoted(sorted(both))} named both in-target and out-of-target",
                remedy="name each class once, with --positive or with --negative",
            )

    def label_of(self, name: str | None) -> int | None:
        """Label of a class: 1 in-target, 0 out-of-target, None where no pattern fits.

        Raises
        ------
        AnnotationError
            Patterns of both sides fit.
        """
        label = _by_name_or_base(name, self._match)
        return _numeric_label(name or "") if label is None else label

    @property
    def told(self) -> tuple[Sequence[object], ...]:
        """What makes a map of classes what it is, for digests."""
        return self.positive, self.negative

    @property
    def sought(self) -> str:
        """What a point or polygon has to be, for messages."""
        return "an in-target or out-of-target class"

    @property
    def unsought(self) -> str:
        """What is left out, for messages."""
        return "neither in-target nor out-of-target"

    @property
    def remedy(self) -> str:
        """What a user can do where no class fits."""
        return "name them with --positive CLASS and --negative CLASS"

    def _match(self, name: str) -> int | None:
        positive = [pattern for pattern in self.positive if _fits(pattern, name)]
        negative = [pattern for pattern in self.negative if _fits(pattern, name)]
        if positive and negative:
            raise AnnotationError(
                f"class {name!r} is in-target by {_quoted(positive)} and out-of-target by {_quoted(negative)}",
                remedy="make --positive or --negative narrower",
            )
        return IN_TARGET if positive else OUT_OF_TARGET if negative else None


@dataclass(frozen=True)
class ClassList:
    """Several classes to be told from each other; the label of a class is its place in the list.

    Parameters
    ----------
    names : tuple of str
        What the classes are called, two or more.
    patterns : tuple of tuple of str
        Which names of annotations belong to each, see `ClassMap`.

    Raises
    ------
    AnnotationError
        A pattern is empty, is no regular expression, or stands for two classes; fewer than two classes, or a name
        twice.
    """

    names: tuple[str, ...]
    patterns: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        folded = [_plain(name) for name in self.names]
        if len(folded) < 2 or len(set(folded)) < len(folded) or len(self.patterns) != len(folded):
            raise AnnotationError(f"the classes {_quoted(self.names)} are not two or more of different names")
        owners: dict[str, str] = {}
        for name, patterns in zip(self.names, self.patterns, strict=True):
            for pattern in patterns:
                _compiled(pattern)
                if owners.setdefault(_plain(pattern), name) != name:
                    both = _quoted((owners[_plain(pattern)], name))
                    raise AnnotationError(f"{pattern!r} stands for {both}", remedy="name it once")

    def label_of(self, name: str | None) -> int | None:
        """Label of a class, its place in the list; None where no pattern fits. Derived classes as for `ClassMap`.

        Raises
        ------
        AnnotationError
            Patterns of two classes fit.
        """
        return _by_name_or_base(name, self._match)

    def _match(self, name: str) -> int | None:
        found = [
            label for label, patterns in enumerate(self.patterns) if any(_fits(pattern, name) for pattern in patterns)
        ]
        if len(found) > 1:
            both = _quoted([self.names[label] for label in found])
            raise AnnotationError(f"class {name!r} is of {both}", remedy="make their patterns narrower")
        return found[0] if found else None

    @property
    def told(self) -> tuple[Sequence[object], ...]:
        """What makes a list of classes what it is, for digests."""
        return self.names, self.patterns

    @property
    def sought(self) -> str:
        """What a point or polygon has to be, for messages."""
        return f"one of the classes {_quoted(self.names)}"

    @property
    def unsought(self) -> str:
        """What is left out, for messages."""
        return f"none of {_quoted(self.names)}"

    @property
    def remedy(self) -> str:
        """What a user can do where no class fits."""
        return "name them with --classes NAME,NAME=PATTERN"


def choose_classes(positive: Sequence[str] = (), negative: Sequence[str] = ()) -> ClassMap:
    """Class map from what a user named.

    Parameters
    ----------
    positive, negative : sequence of str
        Patterns of --positive and --negative (see `ClassMap`); a side that is empty keeps its defaults, less those
        that the other side now claims ("--positive Stroma" takes Stroma from the out-of-target defaults).
    """
    return ClassMap(
        positive=tuple(positive) or _unclaimed(DEFAULT_POSITIVE, negative),
        negative=tuple(negative) or _unclaimed(DEFAULT_NEGATIVE, positive),
    )


def describe_classes(names: Iterable[str | None]) -> str:
    """Classes with their counts, most frequent first: "'Tumor' (7), no class (2)"."""
    counts = Counter(names)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0] or ""))
    return ", ".join(f"{'no class' if name is None else repr(name)} ({count})" for name, count in ordered)


def _by_name_or_base(name: str | None, match: Callable[[str], int | None]) -> int | None:
    """Label of a class by its full name, or else by its base class ("Tumor" of "Tumor: Positive")."""
    if name is None or not name.strip():
        return None
    label = match(name)
    return match(name.split(":", maxsplit=1)[0]) if label is None and ":" in name else label


def _unclaimed(defaults: tuple[str, ...], others: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in defaults if not any(_fits(pattern, name) for pattern in others))


def _fits(pattern: str, name: str) -> bool:
    return _compiled(pattern).fullmatch(name.strip()) is not None


def _compiled(pattern: str) -> re.Pattern[str]:
    text = pattern.strip()
    if not text.removeprefix(_REGEX):
        raise AnnotationError(f"{pattern!r} names no class", remedy="give a class name to --positive and --negative")
    if not text.startswith(_REGEX):
        text = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in text)
    try:
        return re.compile(text.removeprefix(_REGEX), re.IGNORECASE | re.DOTALL)
    except re.error as error:
        raise AnnotationError(f"{pattern!r} is no regular expression: {error}") from error


def _plain(name: str) -> str:
    return name.strip().casefold()


def _numeric_label(name: str) -> int | None:
    return {"1": IN_TARGET, "0": OUT_OF_TARGET}.get(name.strip())


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
