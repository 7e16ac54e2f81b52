"""XML read without trust: no document type, no entities, limits on size and depth.

Attacks refused: exponential and quadratic entity expansion, external entities, deep nesting (see the vulnerability
table of the Python documentation, "XML Processing Modules").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from wsipipe.errors import AnnotationError

MAX_BYTES = 256 << 20
MAX_DEPTH = 32


@dataclass(slots=True)
class XmlNode:
    """An element: tag without namespace, attributes, children, and its line in the file. Text is not kept."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[XmlNode] = field(default_factory=list)

    def every(self, tag: str) -> Iterator[XmlNode]:
        """Children with this tag."""
        return (child for child in self.children if child.tag == tag)

    def get(self, name: str, default: str = "") -> str:
        """Attribute, stripped of spaces."""
        return self.attributes.get(name, default).strip()

    def __iter__(self) -> Iterator[XmlNode]:
        """Walk through this element and all below it, in the order of the file."""
        yield self
        for child in self.children:
            yield from child


def parse_xml(data: bytes, *, path: Path, max_bytes: int = MAX_BYTES) -> XmlNode:
    """Root element of an XML file.

    Parameters
    ----------
    data : bytes
        Content of the file, in an encoding that its first line names, or UTF-8, or else Latin-1.
    path : Path
        Named in errors.

    Raises
    ------
    AnnotationError
        The XML is broken (with the line), holds a document type or entities, is too large or too deep.
    """
    if len(data) > max_bytes:
        raise AnnotationError(f"is XML of more than {max_bytes / 2**20:g} MiB", path=path)
    builder = _Builder(path, encoding=_encoding(data))
    try:
        builder.parser.Parse(data, True)  # noqa: FBT003  (expat's own signature: isfinal)
    except expat.ExpatError as error:
        reason = expat.errors.messages[error.code]
        raise AnnotationError(f"line {error.lineno}: is broken XML: {reason}", path=path) from error
    except (LookupError, ValueError) as error:
        raise AnnotationError(f"is XML in an encoding that cannot be read: {error}", path=path) from error
    return builder.root


def _encoding(data: bytes) -> str | None:
    """None lets the file speak for itself; files that say nothing and are no UTF-8 are taken for Latin-1."""
    if b"encoding" in data[:200] or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return None
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "iso-8859-1"
    return None


class _Builder:
    """Builds the tree from expat's calls."""

    def __init__(self, path: Path, *, encoding: str | None) -> None:
        self.path = path
        self.open: list[XmlNode] = []
        self.parser = expat.ParserCreate(encoding, namespace_separator="}")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        node = XmlNode(tag.rpartition("}")[2], attributes, self.parser.CurrentLineNumber)
        if len(self.open) > MAX_DEPTH:
            raise AnnotationError(f"line {node.line}: is XML nested deeper than {MAX_DEPTH} elements", path=self.path)
        if self.open:
            self.open[-1].children.append(node)
        else:
            self.root = node
        self.open.append(node)

    def _end(self, tag: str) -> None:
        self.open.pop()

    def _refuse(self, *_: object) -> None:
        raise AnnotationError(
            f"line {self.parser.CurrentLineNumber}: is XML with a document type or entities, which are not read",
            path=self.path,
            remedy="export the annotations again",
        )
