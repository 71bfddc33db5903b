"""Readers of the study's page: its cells with their classes, and what is left of it without the
elements that may differ between two runs of the same settings."""

from html.parser import HTMLParser
from typing import NamedTuple

from report_example import VOID, Page


class Cell(NamedTuple):
    text: str
    classes: list[str]
    attributes: dict[str, str | None]


class StudyPage(Page):
    """`Page`, and the cells of each table by its id: rows of header, body and foot."""

    def __init__(self, text):
        self.cells = {}
        super().__init__(text)

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        if tag == "table":
            self.current = self.cells[dict(attrs)["id"]] = []
        if tag == "tr":
            self.current.append([])
        if tag in ("td", "th"):
            attributes = dict(attrs)
            self.current[-1].append(Cell("", (attributes.get("class") or "").split(), attributes))

    def handle_data(self, data):
        if "script" in self.open:
            return
        super().handle_data(data)
        if self.open and self.open[-1] in ("td", "th"):
            last = self.current[-1][-1]
            self.current[-1][-1] = last._replace(text=last.text + data)

    def column(self, table, header):
        """The body and foot cells under a header."""
        titles, *rows = self.cells[table]
        (place,) = [place for place, title in enumerate(titles) if title.text == header]
        return [row[place] for row in rows]


class _Constant(HTMLParser):
    """Everything of a page but the elements with the attribute data-varies."""

    def __init__(self):
        super().__init__(convert_charrefs=False)
        self.kept, self.skipped = [], 0

    def handle_starttag(self, tag, attrs):
        if self.skipped or "data-varies" in dict(attrs):
            self.skipped += tag not in VOID
        else:
            self.kept.append(self.get_starttag_text())

    def handle_endtag(self, tag):
        if self.skipped:
            self.skipped -= 1
        else:
            self.kept.append(f"</{tag}>")

    def handle_data(self, data):
        if not self.skipped:
            self.kept.append(data)

    def handle_entityref(self, name):
        self.handle_data(f"&{name};")

    def handle_charref(self, name):
        self.handle_data(f"&#{name};")


def without_varying(text):
    """The page without its data-varies elements: the same for every run of the same settings."""
    reader = _Constant()
    reader.feed(text)
    reader.close()
    assert not reader.skipped
    return "".join(reader.kept)
