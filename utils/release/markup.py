"""HTML as a tree of elements, which `xml.etree` writes: no text or attribute that is put into it becomes markup."""

from __future__ import annotations

from urllib.parse import quote
from xml.etree import ElementTree

Element = ElementTree.Element
Content = str | Element


def element(tag: str, *contents: Content, **attributes: str) -> Element:
    """An element with text and elements in it. attributes: `class_` for `class`, and `data_label` for `data-label`."""
    made = Element(tag, {name.strip("_").replace("_", "-"): value for name, value in attributes.items()})
    last = None
    for content in contents:
        if isinstance(content, Element):
            made.append(content)
            last = content
        elif last is None:
            made.text = (made.text or "") + content
        else:
            last.tail = (last.tail or "") + content
    return made


def address(file: str, folder: str) -> str:
    """Where a file is: below an https folder, or beside the page. Never with another scheme, whatever the names are."""
    return f"{folder if folder.startswith('https://') else '.'}/{quote(file, safe='')}"


def link(to: str, *contents: Content) -> Element:
    """What leads to an address as `address` gives it, or to another of https; to anything else, it leads nowhere."""
    return element("a", *contents, href=to) if to.startswith(("https://", "./")) else element("span", *contents)


def html(made: Element) -> str:
    """The element and all in it, in one piece."""
    return ElementTree.tostring(made, encoding="unicode", method="html")
