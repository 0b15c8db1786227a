"""Draw docs/banner.svg, which stands on top of the README, and the mark alone, the site's logo: docs/assets/logo.svg.

python tools/draw_banner.py

The mark is a digit that stays readable behind a shield, and pixels of noise that stay outside. What the badges say of
Python and the license is read from pyproject.toml.
"""

from __future__ import annotations

import re
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BANNER, LOGO = ROOT / "docs" / "banner.svg", ROOT / "docs" / "assets" / "logo.svg"
WIDTH, HEIGHT = 790, 92
INK, BLUE, RED, SHEET = "#1c2733", "#1d5fa8", "#b3402f", "#f3f6fa"
SHIELD = "M32 6 L54 14 V31 C54 44 45 53 32 58 C19 53 10 44 10 31 V14 Z"  # in a square of 64
NOISE = ((3, 9), (9, 3), (3, 33), (15, 51), (9, 45), (21, 57))  # pixels outside the shield
PICTURE = ((26, 20), (32, 20), (20, 26), (38, 26), (38, 32), (32, 38), (26, 44), (20, 44), (32, 44), (38, 44))
"""Pixels inside it: a digit 2, still readable."""
SIZE = 6


def mark() -> str:
    """Return the shapes of the mark, in a square of 64."""
    pixels = [(place, RED) for place in NOISE] + [(place, "#ffffff") for place in PICTURE]
    shapes = [f'<path d="{SHIELD}" fill="{BLUE}"/>']
    shapes += [f'<rect x="{x}" y="{y}" width="{SIZE}" height="{SIZE}" fill="{fill}"/>' for (x, y), fill in pixels]
    return "".join(shapes)


def logo() -> str:
    """Return the mark as an SVG of its own."""
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><title>genaf-sdk</title>{mark()}</svg>\n'


def badges() -> list[tuple[str, str]]:
    """Return what each badge is of, and what it says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pythons = re.findall(r":: (3\.\d+)", "\n".join(project["classifiers"]))
    return [
        ("Python", f"{pythons[0]} to {pythons[-1]}"),
        ("license", project["license"]),
        ("needs", "no GPU"),
    ]


def banner() -> str:
    """Return the SVG: mark and name at the left, badges at the right."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>genaf-sdk. {escape('; '.join(' '.join(badge) for badge in badges()))}</title>",
        f"<style>text {{ font: 13px system-ui, sans-serif; fill: {INK} }} "
        ".name { font-size: 34px; font-weight: 600 } .of { fill: #ffffff }</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{SHEET}"/>',
        f'<g transform="translate(20 14)">{mark()}</g>',
        '<text class="name" x="100" y="58">genaf-sdk</text>',
    ]
    left = 312
    for of, says in badges():
        first, second = 18 + 7 * len(of), 18 + 7 * len(says)
        parts += [
            f'<rect x="{left}" y="34" width="{first}" height="26" fill="{INK}"/>',
            f'<rect x="{left + first}" y="34" width="{second}" height="26" fill="#dbe5f1"/>',
            f'<text class="of" x="{left + first / 2:g}" y="51" text-anchor="middle">{escape(of)}</text>',
            f'<text x="{left + first + second / 2:g}" y="51" text-anchor="middle">{escape(says)}</text>',
        ]
        left += first + second + 12
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    BANNER.write_text(banner(), encoding="utf-8")
    LOGO.write_text(logo(), encoding="utf-8")
