"""A page stands alone: plotly.js is in it, deflated, and no text of a figure can end a script or become markup."""

import base64
import json
import re
import zlib

import pytest

from pruning_bootcamp.pages import page


def test_a_page_without_figures_is_small_and_escapes_its_title() -> None:
    text = page("a < b", "<p>body</p>")
    assert "<h1>a &lt; b</h1>" in text
    assert "<script" not in text


def test_plotly_is_in_the_page_once_and_comes_back_whole() -> None:
    go = pytest.importorskip("plotly.graph_objects", reason="plotly is not installed (the extra `report`)")
    from plotly.offline import get_plotlyjs

    evil = "</script><script>alert(1)</script>"
    figure = go.Figure(go.Scatter(x=[1], y=[2], text=[evil]))
    text = page("t", '<div id="one"></div>', {"one": figure, "two": figure})
    packed = re.search(r'id="plotly">([^<]*)<', text)
    assert packed
    assert zlib.decompress(base64.b64decode(packed[1])).decode() == get_plotlyjs()
    assert len(text) < 0.5 * len(get_plotlyjs())
    assert evil not in text
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', text)[1])
    assert figures["one"]["data"][0]["text"] == [evil]
    assert text.count('id="one"') == 1
    assert text.count('id="two"') == 1
