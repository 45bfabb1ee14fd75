"""The documentation site, built strictly: a broken link or a name that is not there ends it.

    .venv/bin/python docs/build.py [OUT]        a few seconds; OUT is site/ without it

Open OUT/index.html: no server and no network are needed. Written elsewhere already, and so made here: the course's
days, the commands from their --help, the tree of modules from their first lines, the changelog.
"""

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pruning_bootcamp"
DAYS_HERE = (
    "../pruning_bootcamp/course/days/"  # how a page of docs/ links to a day; on the site the days are in course/
)


def first_line(module: Path) -> str:
    """The first line of a module's docstring, or of its package's; empty where there is none."""
    file = module / "__init__.py" if module.is_dir() else module
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) if file.exists() else None
    return text.splitlines()[0] if text else ""


def tree(folder: Path = PACKAGE, depth: int = 0) -> Iterator[str]:
    """A nested Markdown list of the modules in `folder`, folders first, each with its first line."""
    entries = [
        path
        for path in sorted(folder.iterdir(), key=lambda path: (path.is_file(), path.name))
        if (path.is_dir() and any(path.glob("*.py"))) or (path.suffix == ".py" and path.name != "__init__.py")
    ]
    for path in entries:
        said = f": {line}" if (line := first_line(path)) else ""
        yield f"{'    ' * depth}- `{path.name}{'/' * path.is_dir()}`{said}"
        if path.is_dir():
            yield from tree(path, depth + 1)


def beside() -> Iterator[str]:
    """Configs, scripts, benchmarks and findings, each with the first sentence of what it says of itself."""
    for title, pattern in {
        "Configs: one YAML is one run": "cfgs/**/*.yaml",
        "Scripts, but for the course's days": "scripts/[!d]*.sh",
        "Benchmarks": "benchmarks/*.py",
        "Findings in other people's software": "findings/*",
    }.items():
        yield f"\n### {title}\n"
        for path in sorted(ROOT.glob(pattern)):
            yield f"- `{path.relative_to(ROOT)}`: {opening(path)}"


def opening(path: Path) -> str:
    """The first sentence that a file says of itself, without the command that runs it."""
    if path.suffix == ".py":
        return first_line(path)
    comments = [line[2:] for line in path.read_text(encoding="utf-8").splitlines()[:6] if line.startswith("# ")]
    # a script's own name, spaces, and what it does
    said = [re.sub(r"^\./\S+(?: \S+)*(?: {2,}|$)", "", line) for line in comments]
    text = " ".join(line for line in said if " " in line and not line.startswith("pruning-bootcamp"))
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0]


def commands() -> Iterator[str]:
    """Every command with its options and examples, as Markdown, from what --help says."""
    import click
    from typer.main import get_command

    from pruning_bootcamp.cli import app

    def shown(name: str, command: click.Command) -> Iterator[str]:
        context = click.Context(command, info_name=f"pruning-bootcamp {name}")
        yield f"## {name}\n\n{command.help}\n\n```\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
        records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
        rows = [f"| `{option}` | {said} |".replace("||", "|") for option, said in filter(None, records)]
        yield "\n".join(["| option | what it is |", "|---|---|", *rows]) + "\n"
        if command.epilog:
            yield f"```\n{command.epilog.replace(chr(8), '').replace('Examples:', '').strip()}\n```\n".replace(
                "\n  ", "\n"
            )
        for inner, subcommand in getattr(command, "commands", {}).items():
            yield from shown(f"{name} {inner}", subcommand)

    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]  # it is a group
        yield from shown(name, command)


def weeks() -> Iterator[str]:
    """The days by week, as links."""
    from pruning_bootcamp.course.day import WEEKS
    from pruning_bootcamp.course.reading import days

    for number, title in enumerate(WEEKS, start=1):
        yield f"\n## Week {number}: {title}\n"
        yield from (
            f"- Day {day.number}: [{day.title}](course/day{day.number:02}.md)" for day in days() if day.week == number
        )


def compose(sources: Path) -> None:
    """Every page of the site in `sources`, as Markdown."""
    from pruning_bootcamp.course.pages import page_of
    from pruning_bootcamp.course.reading import days

    shutil.copytree(ROOT / "docs", sources, ignore=shutil.ignore_patterns("*.py", "*.yml", "__pycache__"))
    (sources / "course").mkdir()
    for day in days():
        # Markdown inside HTML is asked for by name
        page = page_of(day).replace("<details>", "<details markdown>")
        (sources / "course" / f"day{day.number:02}.md").write_text(page, encoding="utf-8")
    shutil.copy2(ROOT / "CHANGELOG.md", sources / "changelog.md")
    for page in sources.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        for mark, made in MADE.items():
            if mark in text:
                text = text.replace(mark, "\n".join(made()))
        page.write_text(text.replace(f"]({DAYS_HERE}", "](course/"), encoding="utf-8")


MADE = {
    "<!-- the days stand here on the site -->": weeks,
    "<!-- the commands stand here on the site -->": commands,
    "<!-- the tree of modules stands here on the site -->": tree,
    "<!-- what is beside the package stands here on the site -->": beside,
}


def fetched(site: Path) -> list[str]:
    """What the pages would fetch from elsewhere, as `page: address`: scripts, styles, fonts, pictures."""
    from_elsewhere = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")
    pages = sorted(site.rglob("*.html"))
    assert pages, f"{site} has no page"
    return [
        f"{page.relative_to(site)}: {address}"
        for page in pages
        for address in from_elsewhere.findall(page.read_text(encoding="utf-8"))
    ]


def build(out: Path) -> int:
    """The site in `out`, whatever was there before; an exit code."""
    from pruning_bootcamp.course.reading import days

    settings = yaml.safe_load((ROOT / "docs" / "site.yml").read_text(encoding="utf-8"))
    for plugin in settings["plugins"]:
        if "mkdocstrings" in plugin:
            plugin["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT)]
    for entry in settings["nav"]:
        if "Course" in entry:
            entry["Course"] += [{f"{day.number}. {day.title}": f"course/day{day.number:02}.md"} for day in days()]
    with tempfile.TemporaryDirectory() as scratch:
        compose(Path(scratch) / "docs")
        settings["site_dir"] = "site"
        (Path(scratch) / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        words = [sys.executable, "-m", "zensical", "build", "--strict", "-f", "mkdocs.yml"]
        done = subprocess.run(words, cwd=scratch, check=False)
        if done.returncode != 0:
            return done.returncode
        if addresses := fetched(Path(scratch) / "site"):
            print("The site must work offline, and would fetch", *addresses, sep="\n  ", file=sys.stderr)
            return 1
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(Path(scratch) / "site", out)
    return 0


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site")))
