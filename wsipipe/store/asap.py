"""Regions as ASAP reads them, streamed to disk one by one.

Source: ASAP's `annotation/XmlRepository.cpp`. ASAP's polygons know no holes: they are cut open (see
`wsipipe.numerics.keyholes`), which ASAP's own masks and every other reader fill as meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import shapely
from numpy.typing import NDArray

from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.numerics.keyholes import keyhole
from wsipipe.store.atomic import atomic_path
from wsipipe.store.regions import check_region, color_text

_NO_GROUP = "None"
_DECIMALS = 2


def write_asap(path: Path, regions: Iterable[OutlinedRegion]) -> None:
    """Write regions as an ASAP file, whole or not at all.

    Parameters
    ----------
    path : Path
        ".xml"; ASAP opens by itself what is named like the slide.
    regions : iterable of OutlinedRegion
        In level-0 px, ASAP's frame: ASAP does not crop to the slide's bounds. Each part of a region becomes a Polygon;
        the classes become groups with their colours.

    Raises
    ------
    StoreError
        A region is empty or not finite, or the file cannot be written.
    """
    groups: dict[str, str] = {}
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0"?>\n<ASAP_Annotations>\n\t<Annotations>\n')
        for number, (region, line) in enumerate(_lines(regions, path)):
            if region.class_name:
                groups.setdefault(region.class_name, color_text(region))
            file.writelines(_annotation(number, region, line))
        file.write("\t</Annotations>\n\t<AnnotationGroups>\n")
        for group, color in groups.items():
            file.write(f'\t\t<Group Name={quoteattr(group)} PartOfGroup="{_NO_GROUP}" Color="{color}">\n')
            file.write("\t\t\t<Attributes />\n\t\t</Group>\n")
        file.write("\t</AnnotationGroups>\n</ASAP_Annotations>\n")


def _lines(regions: Iterable[OutlinedRegion], path: Path) -> Iterator[tuple[OutlinedRegion, NDArray[np.float64]]]:
    for number, region in enumerate(regions):
        check_region(region, number, path=path)
        for part in shapely.get_parts(region.geometry):
            yield region, keyhole(part)


def _annotation(number: int, region: OutlinedRegion, line: NDArray[np.float64]) -> Iterator[str]:
    group = quoteattr(region.class_name or _NO_GROUP)
    head = f'Name="Annotation {number}" Type="Polygon" PartOfGroup={group} Color="{color_text(region)}"'
    yield f"\t\t<Annotation {head}>\n\t\t\t<Coordinates>\n"
    for order, (x, y) in enumerate(np.round(line, _DECIMALS).tolist()):
        yield f'\t\t\t\t<Coordinate Order="{order}" X="{x!r}" Y="{y!r}" />\n'
    yield "\t\t\t</Coordinates>\n\t\t</Annotation>\n"
