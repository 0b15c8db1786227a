"""Draw the rooms of the package as docs/explanation/rooms.svg, from the table in CONTRIBUTING.md.

python tools/draw_rooms.py
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRAWING = ROOT / "docs" / "explanation" / "rooms.svg"
ROW = re.compile(r"^\| (\d) \| (.+) \| (.+) \|$", re.MULTILINE)
WIDTH, FLOOR, GAP, LABEL = 760, 44, 10, 70
STYLE = (
    "text { font: 14px system-ui, sans-serif; fill: #1c2733 } .rule { font-size: 12px; fill: #4a5a6a } "
    "rect { fill: #e8eef6; stroke: #5b7fa8 } .sheet { fill: #ffffff; stroke: none }"
)


def floors() -> list[tuple[str, list[str], str]]:
    """Return number, rooms and what they may import of every floor, the ground first."""
    rows = ROW.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    return [
        (number, re.sub(r" \(.*\)|then |`", "", rooms).replace(",", ";").split("; "), rule.replace("`", ""))
        for number, rooms, rule in rows
    ]


def drawing() -> str:
    """Return the SVG: one line of boxes a floor, the ground at the bottom."""
    house = floors()
    height = len(house) * (FLOOR + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>The rooms of genaf_sdk, floor by floor</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="sheet" width="{WIDTH}" height="{height}"/>',
    ]
    for place, (number, rooms, rule) in enumerate(reversed(house)):
        top = GAP + place * (FLOOR + GAP)
        middle = top + FLOOR // 2
        parts.append(f'<text class="rule" x="{GAP}" y="{middle + 4}">floor {number}</text>')
        room = (WIDTH - LABEL - 230 - GAP * len(rooms)) // len(rooms)
        for index, name in enumerate(rooms):
            left = LABEL + index * (room + GAP)
            parts.append(f'<rect x="{left}" y="{top}" width="{room}" height="{FLOOR}" rx="4"/>')
            parts.append(f'<text x="{left + room // 2}" y="{middle + 5}" text-anchor="middle">{escape(name)}</text>')
        parts.append(f'<text class="rule" x="{WIDTH - 225}" y="{middle + 4}">imports {escape(rule)}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    DRAWING.write_text(drawing(), encoding="utf-8")
