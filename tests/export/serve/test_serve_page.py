"""The page, in a real browser: a picture goes in, labels come out, and a hostile label stays text."""

from __future__ import annotations

import asyncio
import base64
import io
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from servers import free_ports
from tiny import NAMES, SIZE

if TYPE_CHECKING:
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What a drop from the desktop is to the page: an event with a file in it.
DROP = """{{
const bytes = Uint8Array.from(atob("{data}"), (character) => character.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], "picture", {{ type: "{kind}" }}));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", {{ dataTransfer: transfer, bubbles: true }}));
}}"""
STATE = """({
  status: document.getElementById("status").textContent,
  error: document.getElementById("error").textContent,
  rows: [...document.querySelectorAll("#result tr")].map((row) => row.cells[0].textContent),
  models: [...document.getElementById("model").options].map((option) => option.value),
  injected: document.querySelectorAll("#result b").length,
  shown: !document.getElementById("picture").hidden && document.getElementById("picture").naturalWidth,
})"""


class Page:
    """One page of a browser, by the DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._count = socket, 0
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> Any:
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=20)
            entry = message.get("params", {}).get("entry", {})
            if message.get("method") == "Runtime.exceptionThrown" or entry.get("level") in ("error", "warning"):
                self.complaints.append(str(message["params"]))
            if message.get("id") == self._count:
                return message["result"]

    async def evaluate(self, code: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=code, returnByValue=True)
        return result["result"].get("value")

    async def drop(self, data: bytes) -> None:
        code = DROP.format(data=base64.b64encode(data).decode(), kind="image/png")
        result = await self.call("Runtime.evaluate", expression=code)
        assert "exceptionDetails" not in result, result

    async def until(self, condition: Any) -> dict[str, Any]:
        for _ in range(100):
            state: dict[str, Any] = await self.evaluate(STATE) or {}
            if state and condition(state):
                return state
            await asyncio.sleep(0.1)
        raise AssertionError(f"the page stays at {state}; {self.complaints}")


async def visit(browser_port: int, address: str) -> None:
    import aiohttp

    until = time.monotonic() + 30
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{browser_port}/json/list") as response:
                    pages = [entry for entry in await response.json() if entry["type"] == "page"]
                if pages:
                    break
            except aiohttp.ClientError:
                pass  # not started yet
            assert time.monotonic() < until, "Chromium does not start"
            await asyncio.sleep(0.1)
        async with session.ws_connect(pages[0]["webSocketDebuggerUrl"]) as socket:
            page = Page(socket)
            for domain in ("Page", "Runtime", "Log"):
                await page.call(f"{domain}.enable")
            await page.call("Page.navigate", url=address)
            await page.until(lambda state: state["models"] == ["tiny", "bytes"])
            file = io.BytesIO()
            pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
            Image.fromarray(pixels).save(file, "PNG")
            await page.drop(file.getvalue())
            state = await page.until(lambda state: state["rows"])
            assert sorted(state["rows"]) == sorted(NAMES)
            assert state["status"] == state["rows"][0]
            assert (state["injected"], state["error"], state["shown"]) == (0, "", SIZE)
            assert page.complaints == []  # a refused picture, below, is one: a 400 of the network
            await page.drop(b"no picture")
            state = await page.until(lambda state: state["error"])
            assert "cannot be decoded" in state["error"]
            assert state["rows"] == []


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_dropped_picture_is_classified(served: tuple[int, int], tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--remote-debugging-port={port}"]
    browser = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(asyncio.wait_for(visit(port, f"http://127.0.0.1:{served[0]}/"), 90))
    finally:
        browser.terminate()
        try:
            browser.wait(10)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()
