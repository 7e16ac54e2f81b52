"""Classes of annotations: their colours, and which of them are in-target and which out-of-target."""

from __future__ import annotations

import colorsys
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsipipe.annotations.points import IN_TARGET, OUT_OF_TARGET
from wsipipe.errors import AnnotationError

DEFAULT_POSITIVE = ("Tumor", "Foreground", "Positive")
DEFAULT_NEGATIVE = ("Other", "Stroma", "Background", "Negative", "Ignore*")
_REGEX = "re:"


def class_color(name: str | None) -> tuple[int, int, int]:
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


def _hashed_color(key: str) -> tuple[int, int, int]:
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
        if name is None or not name.strip():
            return None
        label = self._match(name)
        if label is None and ":" in name:
            label = self._match(name.split(":", maxsplit=1)[0])
        if label is None:
            label = _numeric_label(name)
        return label

    def _match(self, name: str) -> int | None:
        positive = [pattern for pattern in self.positive if _fits(pattern, name)]
        negative = [pattern for pattern in self.negative if _fits(pattern, name)]
        if positive and negative:
            raise AnnotationError(
                f"class {name!r} is in-target by {_quoted(positive)} and out-of-target by {_quoted(negative)}",
                remedy="make --positive or --negative narrower",
            )
        return IN_TARGET if positive else OUT_OF_TARGET if negative else None


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
