"""Headless Chromium for the tests of the report, whose pages are opened from files, and what axe-core finds in them."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from devtools import CHROMIUM

POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
RESULT = re.compile(r'<pre id="axe-result">(.*?)</pre>', re.DOTALL)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def chromium(folder: Path, page: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a page and return its DOM and what the console said; skip the test where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    command = [
        CHROMIUM,
        *FLAGS,
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        *flags,
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def violations(folder: Path, page: str, axe: str, *flags: str) -> list[dict[str, Any]]:
    """Return axe-core's serious and critical findings; the page's own policy, which forbids scripts, is lifted."""
    run = (
        "axe.run().then(result => { const out = document.createElement('pre'); out.id = 'axe-result';"
        "out.textContent = JSON.stringify(result.violations); document.body.append(out); });"
    )
    page = POLICY.sub("", page).replace("</body>", f"<script>{axe}</script><script>{run}</script></body>")
    path = folder / "axe.html"
    path.write_text(page, encoding="utf-8")
    dom, _ = chromium(folder, path, "--virtual-time-budget=20000", *flags)
    found = RESULT.search(dom)
    assert found is not None, "axe-core gave no result"
    return [v for v in json.loads(html.unescape(found.group(1))) if v["impact"] in ("serious", "critical")]
