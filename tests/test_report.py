"""The HTML report."""

import re
from html.parser import HTMLParser

from jacfast import report


class Page(HTMLParser):
    """Collects the text, the tags, and what the page would load."""

    def __init__(self, page):
        super().__init__()
        self.text, self.tags, self.loads = [], [], []
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def test_what_it_shows_and_that_it_loads_nothing():
    png = b"\x89PNG...\xff"
    page = Page(
        report.page(
            "a < b",
            [
                ("T & U", report.table([["", "h"], ["<row>", "1.5"], ["other", ""]])),
                ("P", report.picture(png, 'what "it" is')),
                ("C", report.values({"lam": 0.1, "name": "<script>"})),
                ("E", report.values(report.environment()) + report.words("1 < 2")),
            ],
        )
    )
    text = "|".join(page.text)
    for shown in ("a < b", "T & U", "<row>", "1.5", '"name": "<script>"', "1 < 2", '"torch":'):
        assert shown in text
    assert "script" not in page.tags
    assert page.tags.count("td") == 4
    assert page.loads == ["data:image/png;base64,iVBORy4uLv8="]


def test_no_address_is_in_it():
    assert not re.search(rb"https?:|//|@import", report.page("t", [("h", report.words("w"))]))
