"""Which predicted mask belongs to which reference: by the slide's name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsipipe.errors import ConfigError

_PICTURES = (".png", ".tif", ".tiff", ".bmp")
_ANNOTATIONS = (".geojson", ".geojson.gz", ".json", ".xml", ".annotations")
# What predict writes beside a mask, and tables.
_BESIDE = (".probability.tif", ".overlay.png", ".report.json")
# A file of the first of these kinds is taken where a folder holds several of one slide.
_KINDS = ((".mask.tif",), (".mask.ome.tif",), (".ome.tif", ".ome.tiff"), _PICTURES, _ANNOTATIONS)
_SAYS_MASK = re.compile(r"[._-](mask|masks|anno|annotation|label|labels|gt)$", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """A predicted mask and what it is judged by.

    Parameters
    ----------
    key : str
        The slide.
    prediction, reference : Path
        Mask; mask or polygons.
    """

    key: str
    prediction: Path
    reference: Path

    @property
    def probability(self) -> Path:
        """Probability raster that `predict` wrote beside the mask; may be missing."""
        return self._beside(".probability.tif")

    @property
    def report(self) -> Path:
        """Report that `predict` wrote beside the mask; may be missing."""
        return self._beside(".report.json")

    def _beside(self, suffix: str) -> Path:
        return self.prediction.with_name(_stem(self.prediction) + suffix)


@dataclass(frozen=True)
class Pairs:
    """What was found.

    Parameters
    ----------
    pairs : tuple of Pair
        In the order of their keys.
    unpredicted, unreferenced : tuple of str
        Keys of references without a prediction, and of predictions without a reference.
    """

    pairs: tuple[Pair, ...]
    unpredicted: tuple[str, ...] = ()
    unreferenced: tuple[str, ...] = ()


def find_pairs(predictions: Path, references: Path) -> Pairs:
    """Pair predictions with references.

    Parameters
    ----------
    predictions : Path
        A mask, or a folder of masks (of what `predict` writes, the plain mask is taken).
    references : Path
        A mask or an annotation file, or a folder of them. Two single files belong together whatever their names;
        files in folders by the slide's name, less suffixes and an ending like "_mask".

    Raises
    ------
    ConfigError
        There is nothing, two files of one kind have one name, no name is on both sides, or a file is no mask.
    """
    if predictions.is_file() and references.is_file():
        for path in (predictions, references):
            if path.name.lower().endswith(_BESIDE):
                raise ConfigError("is no mask", path=path, remedy=f"give {_stem(path)}.mask.tif")
        return Pairs((Pair(file_key(predictions), predictions, references),))
    ours = _listed(predictions, _KINDS[:-1], "mask")
    theirs = _listed(references, _KINDS, "mask or annotation file")
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        raise ConfigError(
            f"no prediction has the name of a reference: {_some(ours)} and {_some(theirs)}",
            path=predictions,
            remedy="name masks and references after their slides",
        )
    pairs = tuple(Pair(key, ours[key], theirs[key]) for key in common)
    return Pairs(pairs, tuple(sorted(theirs.keys() - ours.keys())), tuple(sorted(ours.keys() - theirs.keys())))


def file_key(path: Path) -> str:
    """Slide that a mask or annotation file belongs to, by its name."""
    return _SAYS_MASK.sub("", _stem(path))


def is_annotation(path: Path) -> bool:
    """Whether a file holds polygons rather than pixels, by its name."""
    return path.name.lower().endswith(_ANNOTATIONS)


def _stem(path: Path) -> str:
    """Name without what says the kind of file."""
    suffixes = sorted((*_BESIDE, *itertools.chain(*_KINDS)), key=len, reverse=True)
    suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def _listed(place: Path, kinds: Sequence[tuple[str, ...]], what: str) -> Mapping[str, Path]:
    if not place.exists():
        raise ConfigError("does not exist", path=place, remedy=f"give a {what}, or a folder of them")
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    found: dict[str, tuple[tuple[int, bool], Path]] = {}
    for path, rank in _ranked(files, kinds):
        key = file_key(path)
        before = found.get(key)
        if before is not None and before[0] == rank:
            raise ConfigError(
                f"holds two files for {key!r}: {before[1].name} and {path.name}", path=place, remedy="remove one"
            )
        if before is None or rank < before[0]:
            found[key] = (rank, path)
    if not found:
        raise ConfigError(f"holds no {what}", path=place, remedy=f"known suffixes: {' '.join(itertools.chain(*kinds))}")
    return {key: path for key, (_, path) in found.items()}


def _ranked(files: Sequence[Path], kinds: Sequence[tuple[str, ...]]) -> Iterator[tuple[Path, tuple[int, bool]]]:
    """Files with their rank, the lowest of a slide being its mask: `a_mask.png` goes before an image `a.png`."""
    for path in files:
        name = path.name.lower()
        if path.is_dir() or name.startswith(".") or name.endswith(_BESIDE):
            continue
        rank = next((rank for rank, suffixes in enumerate(kinds) if name.endswith(suffixes)), None)
        if rank is not None:
            yield path, (rank, _SAYS_MASK.search(_stem(path)) is None)


def _some(found: Mapping[str, Path]) -> str:
    return ", ".join(sorted(found)[:3]) + (", ..." if len(found) > 3 else "")
