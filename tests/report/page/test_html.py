"""The page around a document: nothing in a record can leave its place, and nothing can leave the page."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from building.records import connected_profile, model, small_monitored, small_training

from propscope.report.page import page_document, page_html

HOSTILE = ("</script><script>alert(1)</script>", "<!--<script>", "\"'><img src=x onerror=alert(1)>", "a\x00\x1b[31m",
           "🙂 ünï\u202eçode", "lone \ud800", "<!--DATA-->", "&lt;b&gt;", "\u2028")  # fmt: skip


class Parts(HTMLParser):
    """The elements of a page, and the text of each script and style."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.attributes, self.inside = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag
        self.attributes += attrs

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside in ("script", "style"):
            self.texts.append(data)


def named(name):
    profile = connected_profile()
    sites = tuple(replace(site, name=f"{site.name}{name}", kind=name) for site in profile.sites)
    return replace(profile, sites=sites, labels={"activation": name, name: name})


@pytest.mark.parametrize("record", [model(3), small_monitored(), small_training()], ids=["model", "run", "training"])
def test_a_page_is_one_file_with_its_data_inside(record):
    page = page_html(record, title="run.h5")
    parts = Parts(page)
    assert parts.tags.count("script") == 2
    style, data, script = parts.texts
    assert json.loads(data) == json.loads(json.dumps(page_document(record, title="run.h5")))
    assert not [name for name, _ in parts.attributes if name in ("src", "href", "style", "srcset")]
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    policy = dict(re.findall(r"([\w-]+) ('[^;]*')", re.search(r'Policy" content="([^"]*)"', page)[1]))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    for directive, text in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_its_place(name):
    plain, page = (page_html(named(each), title=each) for each in ("name", name))
    assert Parts(page).tags == Parts(plain).tags
    data = json.loads(Parts(page).texts[1])
    assert data["networks"][0]["sites"]["columns"]["kind"] == [name, name]
    page.encode("utf-8")


def test_the_script_makes_no_markup_of_text():
    script = Parts(page_html(model(1))).texts[2]
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "fetch(",
        "XMLHttp",
    ):
        assert way not in script


def test_what_stands_on_top_is_read_where_no_script_runs():
    page = page_html(connected_profile())
    aside = page[page.index("<noscript>") : page.index("</noscript>")]
    (found,) = page_document(connected_profile())["networks"]
    words = re.sub("<[^>]+>", " ", aside)
    assert found["lines"][0].split(":")[0] in words
    assert found["inputs"][0].split(",")[0] in words
