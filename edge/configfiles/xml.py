"""Maven's ``settings.xml``: mirrors and proxies are added, changed and taken away as text, at the places a parser names."""

from __future__ import annotations

import re
import xml.parsers.expat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from .values import KeyAt, Member, Values

_EMPTY = '<?xml version="1.0" encoding="UTF-8"?>\n<settings>\n</settings>\n'

_LISTS = {"mirrors": "mirror", "proxies": "proxy"}
"""The lists that can be edited, and what their members are called."""

_NO_ASCII = "it is written in an encoding without ASCII in it"


@dataclass(slots=True)
class _Element:
    """``start`` to ``stop`` is all of it, ``inner`` what is between its tags: byte offsets. ``inner`` is None for ``<a/>``."""

    name: str
    attributes: dict[str, str]
    start: int
    inner: tuple[int, int] | None = None
    stop: int = 0
    content: list[_Element | str] = field(default_factory=list)

    def children(self, name: str) -> list[_Element]:
        return [child for child in self.content if isinstance(child, _Element) and child.name == name]

    @property
    def text(self) -> str:
        return "".join(piece for piece in self.content if isinstance(piece, str) and not piece.startswith("<")).strip()

    @property
    def is_text(self) -> bool:
        """Whether nothing but text is in it: no element, no comment."""
        return not any(isinstance(piece, _Element) or piece.startswith("<") for piece in self.content)

    def told(self) -> list[Any]:
        """All it says, white space between elements apart."""
        pieces = [child.told() if isinstance(child, _Element) else child.strip() for child in self.content]
        return [self.name, sorted(self.attributes.items()), *(piece for piece in pieces if piece)]


class _Reader:
    """One pass of expat over a document, kept as elements with their places."""

    def __init__(self, document: bytes) -> None:
        self._document = document
        self._open: list[_Element] = []
        self.outside: list[str] = []
        self.root: _Element | None = None
        parser = xml.parsers.expat.ParserCreate()
        parser.ordered_attributes = False
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.CommentHandler = lambda text: self._text(f"<!--{text}")
        parser.ProcessingInstructionHandler = lambda target, data: self._text(f"<?{target} {data}")
        parser.StartDoctypeDeclHandler = self._doctype
        self._parser = parser
        try:
            parser.Parse(document, True)
        except xml.parsers.expat.ExpatError as error:
            raise ValueError(str(error)) from None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        element = _Element(name, attributes, self._parser.CurrentByteIndex)
        if self._open:
            self._open[-1].content.append(element)
        else:
            self.root = element
        self._open.append(element)

    def _end(self, _: str) -> None:
        element = self._open.pop()
        opened = self._tag_end(element.start)
        if self._document[opened - 2 : opened] == b"/>":
            element.stop = opened
            return
        closing = self._parser.CurrentByteIndex
        if self._document[closing : closing + 2] != b"</":
            raise ValueError(_NO_ASCII)
        element.inner = (opened, closing)
        element.stop = self._document.index(b">", closing) + 1

    def _tag_end(self, start: int) -> int:
        found = re.compile(rb"""<(?:[^"'>]|"[^"]*"|'[^']*')*>""").match(self._document, start)
        if found is None:
            raise ValueError(_NO_ASCII)
        return found.end()

    def _text(self, text: str) -> None:
        (self._open[-1].content if self._open else self.outside).append(text)

    def _doctype(self, *_: object) -> None:
        raise ValueError("it has a document type declaration")


class MavenSettings:
    """``{"mirrors": [{"id": …, "mirrorOf": …, "url": …}], "proxies": [{"id": …, "host": …}], …}``, ours last wherever it stands.

    Everything else of the document is kept under names of its own, only to see that it stays. New members go first, because of several
    mirrors that name the same repository Maven takes the first. A document type declaration is refused.
    """

    hash_comments = False

    def __init__(self, ours: str) -> None:
        self._ours = ours

    def read(self, text: str) -> Values:
        reader, root = self._parsed(text)
        values: Values = {"settings": [sorted(root.attributes.items()), reader.outside]}
        values["rest"] = [
            child.told() if isinstance(child, _Element) else child.strip()
            for child in root.content
            if (child.name not in _LISTS if isinstance(child, _Element) else child.strip())
        ]
        for name, member in _LISTS.items():
            found = root.children(name)
            if len(found) > 1:
                raise ValueError(f"it has several <{name}>")
            if found:
                members = [self._member(one) for one in found[0].children(member)]
                members.sort(key=lambda one: one.get("id") == self._ours)
                values[name] = members
                others = [
                    child.told() if isinstance(child, _Element) else child.strip()
                    for child in found[0].content
                    if (child.name != member if isinstance(child, _Element) else child.strip())
                ]
                if others or found[0].attributes:
                    values[f"among {name}"] = [sorted(found[0].attributes.items()), others]
        return values

    def edits(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        return (lambda: self._edited(text, changes, original),)

    def _edited(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> str:
        for path, value in changes:
            name, member, *below = path
            assert isinstance(name, str)
            assert isinstance(member, Member)
            _, root = self._parsed(text)
            document = _document(text)
            listed = next(iter(root.children(name)), None)
            found = [] if listed is None else listed.children(_LISTS[name])
            mine = next((one for one in found if self._member(one).get(member.key) == member.value), None)
            if below:
                document = self._with_text(document, mine, str(below[0]), value)
            elif value is not None:
                document = self._with_member(document, root, listed, name, value)
            elif mine is not None and listed is not None:
                # A list that was made for our member goes with it.
                document = _without(document, listed if len(found) == 1 and name not in original else mine)
            text = document.decode("utf-8", "surrogateescape")
        return text

    @staticmethod
    def _member(member: _Element) -> dict[str, Any]:
        """The element's texts by name. What is no text of its own is kept as it is."""
        told: dict[str, Any] = {}
        for child in member.content:
            if isinstance(child, str):
                if child.strip():
                    told.setdefault("", []).append(child.strip())
            elif child.name in told or child.attributes or not child.is_text:
                told.setdefault("", []).append(child.told())
            else:
                told[child.name] = child.text
        return told

    @staticmethod
    def _parsed(text: str) -> tuple[_Reader, _Element]:
        reader = _Reader(_document(text))
        assert reader.root is not None
        if reader.root.name != "settings":
            raise ValueError(f"its root is <{reader.root.name[:60]}>, not <settings>")
        return reader, reader.root

    @staticmethod
    def _with_text(document: bytes, member: _Element | None, name: str, value: str | None) -> bytes:
        element = next(iter(member.children(name)), None) if member is not None else None
        if member is None or member.inner is None:
            raise ValueError("what is to be changed is not there")
        if element is None:
            last = member.content[-1] if member.content else None
            after = last.stop if isinstance(last, _Element) else member.inner[0]
            return document[:after] + f"<{name}>{_xml(value or '')}</{name}>".encode() + document[after:]
        if value is None:
            return _without(document, element)
        written = f"<{name}>{_xml(value)}</{name}>".encode()
        if element.inner is None:
            return document[: element.start] + written + document[element.stop :]
        return document[: element.inner[0]] + _xml(value).encode() + document[element.inner[1] :]

    @staticmethod
    def _with_member(document: bytes, root: _Element, listed: _Element | None, name: str, value: dict[str, str]) -> bytes:
        end = "\r\n" if b"\r\n" in document else "\n"
        step = _step(document, root)
        outer = _indent(document, listed.start) if listed is not None else _indent(document, root.start) + step
        inner = f"{end}{outer}{step}"
        told = "".join(f"{inner}{step}<{key}>{_xml(text)}</{key}>" for key, text in value.items())
        member = f"{inner}<{_LISTS[name]}>{told}{inner}</{_LISTS[name]}>"
        if listed is not None:
            return _into(document, listed, member, f"{end}{outer}", first=True)
        written = f"{outer}<{name}>{member}{end}{outer}</{name}>{end}"
        return _into(document, root, written, _indent(document, root.start), first=False)


def _document(text: str) -> bytes:
    return (text if text.strip() else _EMPTY).encode("utf-8", "surrogateescape")


def _xml(text: str) -> str:
    return escape(text).encode("ascii", "xmlcharrefreplace").decode()


def _indent(document: bytes, at: int) -> str:
    """The white space before ``at`` on its line, empty if something else is there too."""
    before = document[document.rfind(b"\n", 0, at) + 1 : at]
    return before.decode() if not before.strip(b" \t") else ""


def _step(document: bytes, root: _Element) -> str:
    """What a level is indented by."""
    first = next((child for child in root.content if isinstance(child, _Element)), None)
    return (_indent(document, first.start) if first is not None else "") or "  "


def _into(document: bytes, element: _Element, written: str, before_close: str, *, first: bool) -> bytes:
    """``written`` as the first or last thing in ``element``, whose closing tag is written where it had none."""
    if element.inner is None:
        opening = document[element.start : element.stop].removesuffix(b"/>").rstrip() + b">"
        lead = b"" if first else b"\r\n" if b"\r\n" in document else b"\n"
        content = opening + lead + written.encode() + f"{before_close}</{element.name}>".encode()
        return document[: element.start] + content + document[element.stop :]
    start, stop = element.inner
    if first:
        empty = before_close.encode() if not document[start:stop].strip() and b"\n" not in document[start:stop] else b""
        return document[:start] + written.encode() + empty + document[start:]
    line = document.rfind(b"\n", 0, stop) + 1
    if not document[line:stop].strip() and line > start:
        return document[:line] + written.encode() + document[line:]
    end = b"\r\n" if b"\r\n" in document else b"\n"
    return document[:stop] + end + written.encode() + document[stop:]


def _without(document: bytes, element: _Element) -> bytes:
    """``document`` without ``element``, nor the line it leaves empty."""
    start, stop = element.start, element.stop
    line = document.rfind(b"\n", 0, start) + 1
    after = re.compile(rb"[ \t]*(?:\r?\n)").match(document, stop)
    if after is not None and not document[line:start].strip(b" \t"):
        start, stop = line, after.end()
    return document[:start] + document[stop:]
