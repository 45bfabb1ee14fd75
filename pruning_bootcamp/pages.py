"""One HTML file that needs nothing else: text, tables and plotly figures; plotly.js is in it once, deflated."""

import base64
import html
import zlib
from collections.abc import Mapping
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #ccc; }
.figure { min-height: 30rem; }
"""
# DecompressionStream is in every browser since 2023; whoever has an older one is told, and still reads the tables
_SCRIPT = """
(async () => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const say = text => { for (const name in figures) document.getElementById(name).textContent = text; };
  try {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), c => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    for (const [name, figure] of Object.entries(figures))
      Plotly.newPlot(name, figure.data, figure.layout, {responsive: true, displaylogo: false});
  } catch (error) { say("This figure could not be drawn: " + error); }
})();
"""


def page(title: str, body_html: str, figures: Mapping[str, Any] | None = None) -> str:
    """The page. `figures`: plotly figures by name; each fills `<div id=NAME>` of the body, or comes behind it."""
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        body_html,
    ]
    if figures:
        from plotly.offline import get_plotlyjs

        missing = [html.escape(name) for name in figures if f'id="{name}"' not in body_html]
        parts += [f'<div class="figure" id="{name}"></div>' for name in missing]
        drawn = ",".join(f'"{name}":{figure.to_json()}' for name, figure in figures.items())
        packed = base64.b64encode(zlib.compress(get_plotlyjs().encode(), 9)).decode()
        parts += [
            # nothing in a figure's text can end the script element
            f'<script type="application/json" id="figures">{{{drawn.replace("<", chr(92) + "u003c")}}}</script>',
            f'<script type="text/plain" id="plotly">{packed}</script>',
            f"<script>{_SCRIPT}</script>",
        ]
    parts.append("</body></html>")
    return "\n".join(parts) + "\n"
