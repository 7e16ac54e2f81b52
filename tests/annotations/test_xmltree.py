"""XML without trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsipipe.annotations.xmltree import MAX_DEPTH, parse_xml
from wsipipe.errors import AnnotationError

PATH = Path("some.xml")

BILLION_LAUGHS = b"""<?xml version="1.0"?>
<!DOCTYPE lolz [
 <!ENTITY lol "lol">
 <!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">
 <!ENTITY lol3 "&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;">
]>
<Annotations Name="&lol3;"/>"""


def test_tree_keeps_tags_attributes_and_lines():
    root = parse_xml(b'<?xml version="1.0"?>\n<a>\n <b X="1"/>\n <c><b X=" 2 "/></c>\n</a>', path=PATH)
    assert root.tag == "a"
    assert [(node.tag, node.line) for node in root] == [("a", 2), ("b", 3), ("c", 4), ("b", 4)]
    assert [node.get("X") for node in root.every("b")] == ["1"]
    assert root.children[1].children[0].get("X") == "2"


def test_namespaces_do_not_hide_tags():
    assert parse_xml(b'<Annotations xmlns="http://example.org/x"/>', path=PATH).tag == "Annotations"


@pytest.mark.parametrize(
    "data",
    [
        BILLION_LAUGHS,
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a N="&x;"/>',
        b'<!DOCTYPE a SYSTEM "http://example.org/a.dtd"><a/>',
        b'<!DOCTYPE a [<!ENTITY % p "x">]><a/>',
    ],
)
def test_document_types_and_entities_are_refused(data):
    with pytest.raises(AnnotationError, match=r"some.xml: line \d+: is XML with a document type or entities"):
        parse_xml(data, path=PATH)


def test_depth_is_limited():
    deep = b"<a>" * MAX_DEPTH + b"</a>" * MAX_DEPTH
    assert parse_xml(deep, path=PATH).tag == "a"
    with pytest.raises(AnnotationError, match="nested deeper"):
        parse_xml(b"<a>" * 100_000, path=PATH)


def test_size_is_limited():
    with pytest.raises(AnnotationError, match="XML of more than"):
        parse_xml(b"<a>" + b" " * 100 + b"</a>", path=PATH, max_bytes=100)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"<a>\n<b>\n</a>", 3),
        (b"<a>", 1),
        (b"", 1),
        (b'<a>\n<b X="1" X="2"/></a>', 2),
        (b"<a>\n&nbsp;</a>", 2),
    ],
)
def test_broken_xml_names_the_line(data, line):
    with pytest.raises(AnnotationError, match=rf"some.xml: line {line}: is broken XML: \w+"):
        parse_xml(data, path=PATH)


def test_encodings():
    name = "T\u00fcmor"
    text = f'<a N="{name}"/>'
    for data in (
        text.encode(),
        b"\xef\xbb\xbf" + text.encode(),
        text.encode("latin-1"),
        f'<?xml version="1.0" encoding="ISO-8859-1"?>{text}'.encode("latin-1"),
        text.encode("utf-16"),
    ):
        assert parse_xml(data, path=PATH).get("N") == name


def test_an_unknown_encoding_is_told():
    with pytest.raises(AnnotationError, match="encoding"):
        parse_xml(b'<?xml version="1.0" encoding="klingon"?><a/>', path=PATH)
