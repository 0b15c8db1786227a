"""Build the documentation's site into build/site/, strictly: a dead link, anchor or name ends with an error.

    python tools/build_docs.py

The Markdown in docs/ is written for people who read it in the repository. Here the commands' help is put in, files of
the repository that are no pages are named instead of linked to, and equations become MathML, which browsers show
without any script; then Zensical builds the site from the copy.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS, COPY = ROOT / "docs", ROOT / "build" / "docs"
LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)\)")
MATH = re.compile(
    r"^```.*?^```$|`[^`\n]*`|^\$\$(?P<display>.+?)\$\$$|\$(?P<inline>[^$\n]+?)\$", re.MULTILINE | re.DOTALL
)
"""Equations, and code, in which a dollar sign is one."""
WIDTH = 80  # letters of the help that fit beside the navigation
HELP = re.compile(r"^Help: `genaf ([a-z-]+) --help`$", re.MULTILINE)


def prepared(path: Path) -> str:
    """Return one page of docs/ as the generator wants it."""

    def named(found: re.Match[str]) -> str:
        target = (path.parent / found[2]).resolve()
        return found[0] if target.is_relative_to(DOCS) else f"`{target.relative_to(ROOT)}` in the repository"

    text = MATH.sub(_equation, LINK.sub(named, path.read_text("utf-8")))
    return HELP.sub(lambda found: f"```text\n{_help(found[1])}\n```", text)


def _equation(found: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    if found["display"]:
        return f"<div class='equation'>{convert(found['display'].strip(), display='block')}</div>"
    # In a span, as a line that begins with <math> would be taken as a block.
    return f"<span>{convert(found['inline'])}</span>" if found["inline"] else found[0]


def _help(command: str) -> str:
    settings = os.environ | {"COLUMNS": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1"}
    asked = [sys.executable, "-m", "genaf_sdk", command, "--help"]
    return subprocess.run(asked, env=settings, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """Copy, build, and return the generator's exit code."""
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(DOCS, COPY)
    for path in DOCS.rglob("*.md"):
        (COPY / path.relative_to(DOCS)).write_text(prepared(path), encoding="utf-8")
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    others = [page for page in pages if f" {page}\n" not in settings]
    unlisted = "".join(f"      - {Path(page).parent.name or Path(page).stem}: {page}\n" for page in others)
    (COPY.parent / "mkdocs.yml").write_text(
        settings + ("  - Tables of all rows:\n" + unlisted if unlisted else ""), "utf-8"
    )
    generator = Path(sys.executable).with_name("zensical")
    return subprocess.run(
        [generator, "build", "--strict", "--clean", "-f", COPY.parent / "mkdocs.yml"], cwd=ROOT, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
