import base64
import hashlib
import html.parser
import json
import re

import pytest

from lgrpo_lightning.report.json_text import json_size, to_json
from lgrpo_lightning.report.page import render_page
from lgrpo_lightning.report.run import read_runs
from tests.report.made_runs import HOSTILE, make_run


class Elements(html.parser.HTMLParser):
    """The elements of a page, and the text of its scripts and styles."""

    def __init__(self):
        super().__init__()
        self.found = []
        self.texts = []
        self.inside = None

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.inside = tag if tag in ("script", "style") else None
        if self.inside:
            self.texts.append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data


def parse(page):
    elements = Elements()
    elements.feed(page.decode())
    return elements


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of a harmless run and that of the same run with hostile text everywhere."""
    folder = tmp_path_factory.mktemp("runs")
    plain = make_run(folder / "plain", steps=5, trees=3)
    hostile = make_run(folder / "hostile", steps=5, trees=3, text=HOSTILE)
    (hostile / "config.yaml").write_text(f"model: {json.dumps(HOSTILE)}\n", encoding="utf-8")
    return {
        name: render_page(read_runs([run]), "0")
        for name, run in [("plain", plain), ("hostile", hostile)]
    }


def test_hostile_text_adds_no_element_and_no_attribute(pages):
    plain, hostile = (parse(pages[name]) for name in ("plain", "hostile"))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in plain.found]
    assert hostile.found == plain.found


def test_hostile_text_is_in_the_data_unchanged(pages):
    data = json.loads(parse(pages["hostile"]).texts[1])
    (run,) = data["runs"]
    assert run["settings"]["values"] == {"model": HOSTILE}
    assert all(group["prompt"].endswith(HOSTILE) for group in run["groups"])
    assert any(HOSTILE in node["tokens"] for tree in run["trees"] for node in tree["nodes"])


def test_the_page_loads_nothing(pages):
    for tag, attributes in parse(pages["plain"]).found:
        assert not {"src", "srcset", "action", "style"} & set(attributes), tag
        assert attributes.get("href", "#").startswith(("#", "data:")), tag


def test_only_the_pages_own_script_and_style_may_run(pages):
    elements = parse(pages["plain"])
    (policy,) = [a["content"] for _, a in elements.found if a.get("http-equiv")]
    style, _, script = elements.texts
    for kind, text in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_chart_library_comes_with_its_licence(pages):
    assert b"The MIT License (MIT)" in pages["plain"]
    assert b"Leon Sorokin" in pages["plain"]


@pytest.mark.parametrize(
    "text", ["</script>", "<!--", "a & b > c", "\u2028\u2029", "\ud800", "ä€𝄞"]
)
def test_json_is_free_of_markup_and_reads_back(text):
    encoded = to_json({text: [text]})
    assert not re.search(rb"[<>&]|\xe2\x80[\xa8\xa9]", encoded)
    assert json.loads(encoded) == {text: [text]}


def test_json_is_strict():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json([float("nan")])


def test_the_size_of_a_line_is_that_of_its_escaped_form():
    value = {"a": "<b> & ü"}
    line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    assert json_size(line) == len(to_json(value))
