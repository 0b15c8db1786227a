"""The drawing of the rooms shows what the table of CONTRIBUTING.md says."""

from __future__ import annotations

import runpy
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "draw_rooms.py"))


def test_the_drawing_is_that_of_the_table() -> None:
    assert TOOL["DRAWING"].read_text(encoding="utf-8") == TOOL["drawing"](), "run tools/draw_rooms.py"


def test_every_folder_is_drawn_and_explained() -> None:
    drawn = {text.text for text in ET.fromstring(TOOL["drawing"]()).iter("{http://www.w3.org/2000/svg}text")}
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "genaf_sdk").glob("*/__init__.py")}
    assert folders <= drawn
    assert [folder for folder in sorted(folders) if f"**{folder}/**" not in page] == []
