"""Draw the rooms of the package as docs/explanation/rooms.svg, from the table in CONTRIBUTING.md.

python tools/draw_rooms.py
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRAWING = ROOT / "docs" / "explanation" / "rooms.svg"
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
WIDTH, FLOOR, GAP, LABEL = 760, 44, 10, 70
STYLE = (
    "text { font: 14px system-ui, sans-serif; fill: #1c2733 } .rule { font-size: 11px; fill: #4a5a6a } "
    "rect { fill: #e8eef6; stroke: #5b7fa8 } .sheet { fill: #ffffff; stroke: none }"
)


def floors() -> dict[str, dict[str, str]]:
    """Return the rooms of every floor, the ground first, and what each may import."""
    house: dict[str, dict[str, str]] = {}
    for floor, room, rule in ROW.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        house.setdefault(floor, {})[room] = rule
    return house


def drawing() -> str:
    """Return the SVG: one line of boxes a floor, the ground at the bottom."""
    house = floors()
    height = len(house) * (FLOOR + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>The rooms of genaf_sdk, floor by floor, and which floors each imports</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="sheet" width="{WIDTH}" height="{height}"/>',
    ]
    for place, (floor, rooms) in enumerate(reversed(house.items())):
        top = GAP + place * (FLOOR + GAP)
        width = (WIDTH - LABEL - GAP * len(rooms)) // len(rooms)
        parts.append(f'<text class="rule" x="{GAP}" y="{top + 27}">floor {floor}</text>')
        for index, (room, rule) in enumerate(rooms.items()):
            left = LABEL + index * (width + GAP)
            middle = left + width // 2
            parts += [
                f'<rect x="{left}" y="{top}" width="{width}" height="{FLOOR}" rx="4"/>',
                f'<text x="{middle}" y="{top + 19}" text-anchor="middle">{escape(room)}</text>',
                f'<text class="rule" x="{middle}" y="{top + 36}" text-anchor="middle">imports {escape(rule)}</text>',
            ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    DRAWING.write_text(drawing(), encoding="utf-8")
