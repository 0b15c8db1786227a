"""The page, in a real browser: a picture goes in, labels come out, and a hostile label stays text."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from devtools import Page, visit
from PIL import Image
from tiny import AREA, COUNT, FILL, NAMES, SIZE, blots

from genaf_sdk.export.serve import load_bundle

if TYPE_CHECKING:
    from pathlib import Path

# What a drop from the desktop is to the page: an event with a file in it.
DROP = """{{
const bytes = Uint8Array.from(atob("{data}"), (character) => character.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], "picture", {{ type: "{kind}" }}));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", {{ dataTransfer: transfer, bubbles: true }}));
}}"""
STATE = """({
  status: document.getElementById("status")?.textContent,
  error: document.getElementById("error")?.textContent,
  rows: [...document.querySelectorAll("#result tr")].map((row) => row.cells[0].textContent),
  models: [...(document.getElementById("model")?.options ?? [])].map((option) => option.value),
  injected: document.querySelectorAll("#result b").length,
  shown: document.getElementById("picture")?.checkVisibility() && document.getElementById("picture").naturalWidth,
})"""


async def drop(page: Page, data: bytes) -> None:
    await page.evaluate(DROP.format(data=base64.b64encode(data).decode(), kind="image/png"))


async def use(page: Page) -> None:
    state = await page.until(STATE, lambda state: state["models"] == ["tiny", "bytes"])
    assert state["shown"] is False  # a picture that is not there would show as a broken one
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    await drop(page, file.getvalue())
    state = await page.until(STATE, lambda state: state["rows"])
    assert sorted(state["rows"]) == sorted(NAMES)
    assert state["status"] == state["rows"][0]
    assert (state["injected"], state["error"], state["shown"]) == (0, "", SIZE)
    assert page.complaints == []  # a refused picture, below, is one: a 400 of the network
    await drop(page, b"no picture")
    state = await page.until(STATE, lambda state: state["error"])
    assert "cannot be decoded" in state["error"]
    assert state["rows"] == []


# The first answer comes when it is let go, after those of pictures that were dropped later.
HOLD = """{
const asked = window.fetch;
window.fetch = (path, options) => window.letGo || !String(path).endsWith("/classify") ? asked(path, options)
  : new Promise((answer) => { window.letGo = () => answer(asked(path, options)); });
}"""


async def use_in_a_hurry(page: Page) -> None:
    await page.until(STATE, lambda state: state["models"] == ["tiny", "bytes"])
    await page.evaluate(HOLD)
    await drop(page, b"no picture")
    file = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), "white").save(file, "PNG")
    await page.until("Boolean(window.letGo)", bool)
    await drop(page, file.getvalue())
    shown = await page.until(STATE, lambda state: state["rows"])
    await page.evaluate("window.letGo(), new Promise((done) => setTimeout(done, 1000))")
    assert await page.evaluate(STATE) == shown


REFUSED = """window.fetch = async () =>
  new Response(null, { status: 431, statusText: "Request Header Fields Too Large" });"""


async def use_in_vain(page: Page) -> None:
    await page.until(STATE, lambda state: state["models"] == ["tiny", "bytes"])
    await page.evaluate(REFUSED)
    await drop(page, b"a picture")
    state = await page.until(STATE, lambda state: state["error"])
    assert state["error"] == "The server answered 431 Request Header Fields Too Large."


def test_an_answer_without_content_is_told_by_its_status(served: tuple[int, int], tmp_path: Path) -> None:
    visit(tmp_path, f"http://127.0.0.1:{served[0]}/", use_in_vain)


def test_an_answer_to_an_earlier_picture_is_not_shown_beside_a_later_one(
    served: tuple[int, int], tmp_path: Path
) -> None:
    visit(tmp_path, f"http://127.0.0.1:{served[0]}/", use_in_a_hurry)


def test_a_dropped_picture_is_classified(served: tuple[int, int], tmp_path: Path) -> None:
    visit(tmp_path, f"http://127.0.0.1:{served[0]}/", use)


def test_the_page_says_which_answers_are_certified(certifying: tuple[int, int, Path], tmp_path: Path) -> None:
    http, _, folder = certifying
    pixels = np.rint(blots(12) * 255).astype(np.uint8)
    classifier = load_bundle(folder, certify=AREA, masks=COUNT, fill=FILL, threads=1)
    assert classifier.defense is not None
    answers = classifier.defense(pixels.astype(np.float32) / 255).tolist()
    proofs = (", not certified", ", certified: one patch cannot have changed it")
    chosen = [next(row for row, (_, sure) in enumerate(answers) if sure == wanted) for wanted in (0, 1)]

    async def use_both(page: Page) -> None:
        await page.until(STATE, lambda state: state["models"] == ["tiny", "bytes"])
        for row in chosen:
            file = io.BytesIO()
            Image.fromarray(pixels[row].transpose(1, 2, 0)).save(file, "PNG")
            await drop(page, file.getvalue())
            index, sure = answers[row]
            state = await page.until(STATE, lambda state, said=NAMES[index] + proofs[sure]: state["status"] == said)
            assert (state["rows"], state["error"]) == ([], "")

    visit(tmp_path, f"http://127.0.0.1:{http}/", use_both)
