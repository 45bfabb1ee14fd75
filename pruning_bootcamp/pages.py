"""One HTML file that shows plotly figures offline: plotly.js lies deflated in it, and the page inflates it."""

import base64
import html
import zlib
from collections.abc import Sequence
from typing import Any

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; margin: 2rem auto; max-width: 1100px;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #e3e6ea; text-align: right; }
th:first-child, td:first-child { text-align: left; }
code { background: #f2f4f7; padding: .1rem .3rem; border-radius: 3px; }
.note { color: #57606a; }
.figure { min-height: 24rem; }
"""
# Browsers since 2023 have DecompressionStream; an older one is told, and still shows the page's tables.
_SHOW = """
(async () => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const say = text => document.querySelectorAll(".figure").forEach(place => { place.textContent = text; });
  try {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), sign => sign.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    for (const [number, figure] of figures.entries()) {
      const place = document.getElementById("figure-" + number);
      place.textContent = "";
      await Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false});
    }
  } catch (error) {
    say("This figure can't be drawn here (" + error + "). It needs a browser of 2023 or later.");
  }
})();
"""


def has_plotly() -> bool:
    """Whether figures can be made here; without plotly everything but them is."""
    try:
        import plotly  # type: ignore[import-untyped]  # noqa: F401  # it has no types
    except ImportError:
        return False
    return True


def page(title: str, body_html: str, figures: Sequence[Any] = ()) -> str:
    """A whole HTML page: `title`, then `body_html` as it is, each `{figure-0}`, `{figure-1}`, ... in it a figure.

    Figures are plotly's; one that `body_html` has no place for comes at the end. The same content gives the same text.
    """
    for number in range(len(figures)):
        place = f'<div class="figure" id="figure-{number}">drawing ...</div>'
        mark = f"{{figure-{number}}}"
        body_html = body_html.replace(mark, place) if mark in body_html else f"{body_html}\n{place}"
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
    )
    scripts = ""
    if figures:
        # "<" would end the script where a text holds "</script>"
        content = "[" + ",".join(figure.to_json() for figure in figures).replace("<", "\\u003c") + "]"
        scripts = (
            f'<script type="application/json" id="figures">{content}</script>\n'
            f'<script type="text/plain" id="plotly">{_packed_plotly()}</script>\n<script>{_SHOW}</script>\n'
        )
    return f"{head}<body>\n<h1>{html.escape(title)}</h1>\n{body_html}\n{scripts}</body>\n</html>\n"


def _packed_plotly() -> str:
    """plotly.js (4.8 MB) in 2.0 MB of text."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # it has no types

    return base64.b64encode(zlib.compress(get_plotlyjs().encode(), 9)).decode()
