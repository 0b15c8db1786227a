"""Draw the threat as docs/threat.svg: one perturbation of a public encoder, and what every classifier on it says.

python tools/draw_threat.py
"""

from __future__ import annotations

from html import escape
from pathlib import Path

DRAWING = Path(__file__).resolve().parents[1] / "docs" / "threat.svg"
WIDTH, HEIGHT = 860, 330
STYLE = (
    "text { font: 14px system-ui, sans-serif; fill: #1c2733 } .title { font-weight: 600 } "
    ".small { font-size: 12px; fill: #3d4d5c } .sheet { fill: #ffffff } .box { fill: #e8eef6; stroke: #5b7fa8 } "
    ".attack { fill: #fbe9e7; stroke: #b3402f } .good { fill: #e6f3e8; stroke: #3c7d4a } "
    ".line { fill: none; stroke: #3d4d5c; stroke-width: 1.5; marker-end: url(#tip) } .red { stroke: #b3402f }"
)
# name: (left, top, width, height), kind, title, lines below it
BOXES = {
    "encoder": ((20, 116, 190, 76), "box", "Public encoder", ("everyone has its weights",)),
    "plain": ((270, 20, 250, 76), "box", "You: fine-tuning", ("labeled images of your own task",)),
    "hardened": ((270, 116, 250, 76), "box", "You: harden(encoder, dataset)", ("trained under such perturbations",)),
    "attacker": (
        (270, 212, 250, 98),
        "attack",
        "Attacker",
        (
            "has the encoder, not your task:",
            "crafts one perturbation or patch",
            "and puts it on every picture",
        ),
    ),
    "wrong": (
        (600, 20, 240, 76),
        "attack",
        "Answers: many wrong",
        ("though the attacker", "never saw the classifier"),
    ),
    "right": ((600, 116, 240, 76), "good", "Answers: mostly right", ("how many, with intervals,", "is in the report")),
}
# kind: from the encoder to all who use it and from each classifier to its answers; from the attacker to those answers
ARROWS = {
    "line": (
        *("M210 144 C245 144 235 58 264 58", "M210 154 H264", "M210 164 C245 164 235 260 264 260"),
        *("M520 58 H594", "M520 154 H594"),
    ),
    "line red": ("M520 250 C575 250 555 76 594 76", "M520 266 C580 266 560 174 594 174"),
}


def drawing() -> str:
    """Return the SVG: the encoder at the left, who uses it in the middle, what comes of it at the right."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>One perturbation, crafted on the public encoder alone, fools classifiers fine-tuned from it; "
        "a hardened one withstands it</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#3d4d5c"/></marker></defs>',
        f'<rect class="sheet" width="{WIDTH}" height="{HEIGHT}"/>',
    ]
    for kind, paths in ARROWS.items():
        parts += [f'<path class="{kind}" d="{path}"/>' for path in paths]
    for (left, top, width, height), kind, title, lines in BOXES.values():
        middle = left + width // 2
        parts.append(f'<rect class="{kind}" x="{left}" y="{top}" width="{width}" height="{height}" rx="6"/>')
        parts.append(f'<text class="title" x="{middle}" y="{top + 28}" text-anchor="middle">{escape(title)}</text>')
        parts += [
            f'<text class="small" x="{middle}" y="{top + 48 + 17 * index}" text-anchor="middle">{escape(line)}</text>'
            for index, line in enumerate(lines)
        ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    DRAWING.write_text(drawing(), encoding="utf-8")
