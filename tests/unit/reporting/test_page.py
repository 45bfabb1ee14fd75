"""The HTML page, in a real browser: it sorts, filters and draws, says no error, and opens at once with 50 runs."""

import base64
import hashlib
import html as escapes
import json
import re
import shutil
import subprocess
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from result_folders import write_comparison, write_profile, write_run, write_scan, write_sweep

from pruning_bootcamp.pages import Cell, Column, Row, page, table
from pruning_bootcamp.reporting.command import report

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
in_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome to open the page in")
EVIL = "<script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>"

# The clock of a page in this mode jumps from timer to timer, and unpacking plotly takes real time: so each turn works.
EVERY_PLOT = """async function everyPlot() {
    for (const place of document.querySelectorAll(".plot")) {
        place.scrollIntoView();
        for (let turn = 0; turn < 400 && !place.dataset.drawn; turn++) {
            for (let step = 0; step < 3e6; step++) globalThis.idle = step;
            await new Promise((done) => setTimeout(done, 20));
        }
    }
}"""


def probe(path: Path, script: str, *, width: int = 1280, options: tuple[str, ...] = ()) -> tuple[Any, list[str]]:
    """What `script` (the body of an async function) returns in a copy of the page; and what the console said.

    The page's policy lets no other script run: the copy gets the hash of this one.
    """
    code = (
        f"{EVERY_PLOT} (async () => {{ const found = await (async () => {{ {script} }})();"
        "const place = document.createElement('pre'); place.id = 'probe'; place.textContent = JSON.stringify(found);"
        "document.body.append(place); })();"
    )
    hashed = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    text = path.read_text().replace("script-src ", f"script-src 'sha256-{hashed}' ", 1)
    copy = path.with_name("probed.html")
    copy.write_text(text.replace("</body>", f"<script>{code}</script></body>"))
    command = [
        str(BROWSER),
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", *options),
        f"--user-data-dir={path.parent / 'profile'}",
        *(f"--window-size={width},1000", "--virtual-time-budget=100000", "--dump-dom", copy.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(escapes.unescape(found[1])), said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page") / "results"
    write_comparison(root)
    write_run(root, "other", "prune-structured", fewer=40.0, config={"data": {"name": "cifar10"}}, goal_met=False)
    write_profile(root / "l1_0")
    write_scan(root)
    write_sweep(root)
    return report(root, "html")


@in_browser
def test_tables_sort_by_click_and_by_key(whole: Path) -> None:
    found, said = probe(
        whole,
        """
        const table = document.getElementById("runs-table");
        const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
        const header = [...table.tHead.rows[0].cells].find((cell) => cell.textContent.startsWith("Test accuracy"));
        const button = header.querySelector("button");
        button.click();
        const down = [names(), header.getAttribute("aria-sort")];
        button.focus();
        const reachable = document.activeElement === button && button.type === "button" && button.tabIndex === 0;
        button.click();
        const up = [names(), header.getAttribute("aria-sort")];
        const drop = [...table.tHead.rows[0].cells].find((cell) => cell.textContent.startsWith("Drop"));
        drop.querySelector("button").click();
        drop.querySelector("button").click();
        return { down, up, reachable, last: names().at(-1), left: header.getAttribute("aria-sort") };
        """,
    )
    order = ["dense", "l1_2", "l1_1", "l1_0", "other", "zeros", "random"]
    assert found["down"] == [order, "descending"]
    assert found["up"][1] == "ascending"
    assert found["up"][0][0] == "random"
    assert found["up"][0][-1] == "dense"
    assert found["reachable"]
    assert found["last"] == "dense", "without a figure: last, whichever way"
    assert found["left"] is None, "one column at a time says that it is sorted"
    assert said == []


@in_browser
def test_filters_work_together_and_say_how_many_are_left(whole: Path) -> None:
    found, said = probe(
        whole,
        """
        const controls = document.querySelector('[data-for="runs-table"]');
        const count = controls.querySelector(".count");
        const shown = () => [...document.querySelectorAll("#runs-table tbody tr")]
            .filter((row) => row.offsetParent !== null).map((row) => row.cells[0].textContent);
        const change = (selector, value) => {
            const control = controls.querySelector(selector);
            control.value = value;
            control.dispatchEvent(new Event("input", { bubbles: true }));
            return [shown(), count.textContent];
        };
        const all = count.textContent;
        const dataset = change('[data-key="dataset"]', "digits");
        const command = change('[data-key="command"]', "prune-structured");
        const goal = change('[data-key="goal"]', "✗ not met");
        const none = change("[data-search]", "nowhere");
        controls.querySelector(".clear").click();
        const word = change("[data-search]", "L1 fewer");
        return { all, dataset, command, goal, none, word, live: count.getAttribute("aria-live") };
        """,
    )
    assert found["all"] == "7 of 7 rows"
    assert found["dataset"][1] == "6 of 7 rows"
    assert found["command"] == [["l1_0", "l1_1", "l1_2", "random"], "4 of 7 rows"]
    assert found["goal"] == [["random"], "1 of 7 rows"]
    assert found["none"] == [[], "0 of 7 rows"]
    assert found["word"] == [["l1_0", "l1_1", "l1_2", "other"], "4 of 7 rows"], "the method is l1 in all four"
    assert found["live"] == "polite"
    assert said == []


@in_browser
@pytest.mark.parametrize("theme", [pytest.param(0, marks=pytest.mark.slow, id="dark"), pytest.param(1, id="light")])
def test_plots_are_drawn_in_the_colours_of_the_theme_and_text_can_be_read(whole: Path, theme: int) -> None:
    found, said = probe(
        whole,
        """
        await everyPlot();
        const style = (element, name) => getComputedStyle(element).getPropertyValue(name);
        const root = document.documentElement;
        const names = ["page", "surface", "text", "quiet", "link", "series-1", "series-2", "series-3", "series-4",
            "series-5", "series-6", "series-7", "series-8"];
        return {
            drawn: [...document.querySelectorAll(".plot")].map((place) => [place.id, Boolean(place.dataset.drawn),
                place.querySelectorAll(".main-svg").length > 0]),
            paper: style(document.querySelector(".plot .main-svg"), "background-color"),
            body: style(document.body, "background-color"),
            colours: Object.fromEntries(names.map((name) => [name, style(root, "--" + name).trim()])),
        };
        """,
        options=(f"--blink-settings=preferredColorScheme={theme}",),
    )
    assert [name for name, drawn, svg in found["drawn"] if not (drawn and svg)] == []
    assert len(found["drawn"]) >= 4
    assert found["paper"] == found["body"] == ("rgb(20, 23, 27)" if theme == 0 else "rgb(255, 255, 255)")
    colours = found["colours"]
    for text in ("text", "quiet", "link"):
        for behind in ("page", "surface"):
            assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for number in range(1, 9):
        assert contrast(colours[f"series-{number}"], colours["page"]) >= 4.5, number
    assert said == []


def contrast(one: str, other: str) -> float:
    """As the Web Content Accessibility Guidelines define it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@in_browser
def test_structure_for_screen_readers_and_phones(whole: Path) -> None:
    found, said = probe(
        whole,
        """
        document.documentElement.style.width = "360px";
        const text = (id) => document.getElementById(id)?.textContent ?? "";
        const named = (element) => element.getAttribute("aria-label") || text(element.getAttribute("aria-labelledby"));
        return {
            headings: [...document.querySelectorAll("h1, h2, h3, h4")].map((heading) => Number(heading.tagName[1])),
            landmarks: ["header", "nav", "main", "footer"]
                .map((name) => document.querySelectorAll("body > " + name).length),
            skip: document.querySelector(document.querySelector("a.skip").getAttribute("href")).tagName,
            unnamed: [...document.querySelectorAll("[role=img], [role=region], [role=group], nav")]
                .filter((element) => !named(element)).length,
            bare: [...document.querySelectorAll("table")].filter((table) => !table.caption?.textContent).length,
            tables: document.querySelectorAll("figure.plot-frame table").length,
            plots: document.querySelectorAll(".plot").length,
            twice: [...document.querySelectorAll("[id]")].map((element) => element.id)
                .filter((id, place, all) => all.indexOf(id) !== place),
            wide: [...document.querySelectorAll("body *")]
                .filter((element) => !element.closest(".scroll, .plot, pre, .skip"))
                .filter((element) => element.getBoundingClientRect().right > 361).map((element) => element.tagName),
        };
        """,
        width=500,
    )
    levels = found["headings"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert found["landmarks"] == [1, 1, 1, 1]
    assert found["skip"] == "MAIN"
    assert (found["unnamed"], found["bare"], found["twice"]) == (0, 0, [])
    assert found["tables"] >= found["plots"] > 0
    assert found["wide"] == []
    assert said == []


@in_browser
def test_fifty_runs_open_within_a_second_and_three_megabytes(tmp_path: Path) -> None:
    write_run(tmp_path, "dense", "train", accuracy=92.0)
    for number in range(49):
        score, seed = ("l1", "l2", "random", "fpgm", "lamp")[number % 5], number // 5
        write_run(
            tmp_path, f"run_{number:02d}", "prune-structured", score=score, seed=seed, accuracy=90 + number / 50,
            fewer=40.0 + number % 5, metrics={"widths": {f"layer{k}": [64, 40 + number % 9] for k in range(30)}},
        )  # fmt: skip
    path = report(tmp_path, "html")
    assert path.stat().st_size < 3e6
    ready = [ready_ms(path) for _ in range(3)]
    assert 0 < min(ready) < 1000, ready


def ready_ms(path: Path) -> float:
    """When the page's own script was done, on the browser's real clock: milliseconds since the page was asked for."""
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={path.parent / 'profile'}")
    command = [str(BROWSER), *options, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r'data-ready-ms="([\d.]+)"', done.stdout)
    assert found
    return float(found[1])


@in_browser
def test_a_run_named_like_a_script_is_harmless(tmp_path: Path) -> None:
    write_run(
        tmp_path, "<script>document.title='owned'<", "prune-structured", fewer=50.0, config={"data": {"name": EVIL}},
        metrics={"goal": EVIL, "goal_met": False, "environment": {"device": EVIL}, "widths": {EVIL: [4, 2]}},
    )  # fmt: skip
    write_run(tmp_path, "b", "prune-structured", score=EVIL, fewer=40.0, config={"data": {"name": EVIL}})
    path = report(tmp_path, "html")
    text = path.read_text()
    assert EVIL not in text
    assert "<img" not in text
    found, said = probe(
        path,
        """
        await everyPlot();
        return { title: document.title, images: document.images.length,
            drawn: [...document.querySelectorAll(".plot")].every((place) => place.dataset.drawn),
            shown: document.getElementById("runs-table").textContent.includes("<script>document.title='owned'<") };
        """,
    )
    assert found == {"title": f"Pruning results: {tmp_path.name}", "images": 0, "drawn": True, "shown": True}
    assert said == []


@in_browser
def test_a_script_that_is_not_the_pages_own_does_not_run(tmp_path: Path) -> None:
    """The second lock: were something not escaped, the security policy would still stop it."""
    path = tmp_path / "page.html"
    script = '<script>document.getElementById("place").textContent = "ran"</script>'
    body = f'<main id="main"><p id="place">calm</p>{script}</main>'
    path.write_text(page("A page", body))
    found, said = probe(path, 'return document.getElementById("place").textContent;')
    assert found == "calm"
    assert any("Content Security Policy" in line for line in said)


def test_a_page_without_plots_is_small_and_a_table_escapes() -> None:
    rows = [Row([Cell(EVIL, 1.0, href="a%22b/"), "2"], {"kind": EVIL})]
    text = page("T <&>", table(EVIL, [Column(EVIL), Column("n", True)], rows, identifier="t", search=True))
    assert len(text) < 40_000
    assert "T &lt;&amp;&gt;" in text
    assert EVIL not in text
    assert "http" not in re.sub(r'http-equiv|"http://www.w3.org[^"]*"', "", text)


def test_plotly_is_in_the_page_once_and_no_figure_can_end_a_script() -> None:
    """What the browser tests see, for machines without one."""
    plotly = pytest.importorskip("plotly.offline", reason="plotly is not installed (the extra `report`)")
    figure = {"data": [{"type": "scatter", "x": [1], "y": [2], "text": ["</script>" + EVIL]}]}
    text = page("t", "", {"one": figure, "two": figure})
    packed = re.findall(r'id="plotly">([^<]*)<', text)
    assert len(packed) == 1
    source = zlib.decompress(base64.b64decode(packed[0])).decode()
    assert source == plotly.get_plotlyjs()
    assert len(text) < 0.5 * len(source)
    assert EVIL not in text
    (data,) = re.findall(r'id="figures">(.*?)</script>', text)
    assert json.loads(data) == {"one": figure, "two": figure}
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in text.partition("</head>")[0], "the policy lets the library run"
