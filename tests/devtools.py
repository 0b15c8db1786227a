"""A page in headless Chromium, driven by the DevTools protocol, and axe-core for it; where a machine has them."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

Result = TypeVar("Result")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1100,1400"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
AXE = "axe.run().then(result => result.violations.filter(v => ['serious', 'critical'].includes(v.impact)))"


class Page:
    """One page of a browser. ``complaints`` are what its console and its network had to say."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._count = connection, 0
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> Any:
        """Ask the browser, and return its result."""
        self._count += 1
        await self._connection.send_json({"id": self._count, "method": method, "params": parameters})
        while True:
            message = await self._connection.receive_json(timeout=60)
            entry = message.get("params", {}).get("entry", {})
            if message.get("method") == "Runtime.exceptionThrown" or entry.get("level") in ("error", "warning"):
                self.complaints.append(str(message["params"]))
            if message.get("id") == self._count:
                assert "error" not in message, message
                return message["result"]

    async def evaluate(self, code: str) -> Any:
        """Return what an expression of JavaScript gives, or the promise that it gives."""
        result = await self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, code: str, condition: Callable[[Any], object], seconds: float = 20) -> Any:
        """Return the value of an expression once it is as it should be."""
        end = time.monotonic() + seconds
        while True:
            state = await self.evaluate(code)
            if state is not None and condition(state):
                return state
            assert time.monotonic() < end, f"the page stays at {state}; {self.complaints}"
            await asyncio.sleep(0.1)

    async def choose(self, selector: str, *files: Path) -> None:
        """Put files into an input of the page, as a person does."""
        document = await self.call("DOM.getDocument")
        found = await self.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self.call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(path) for path in files])

    async def axe(self, source: str) -> list[dict[str, Any]]:
        """Return axe-core's serious and critical findings."""
        await self.call("Runtime.evaluate", expression=source)
        found: list[dict[str, Any]] = await self.evaluate(AXE)
        return found


def free_port() -> int:
    """Return a port of the loopback interface that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def visit(folder: Path, address: str, act: Callable[[Page], Awaitable[Result]], seconds: float = 120) -> Result:
    """Open an address and let ``act`` use the page; skip the test where there is no Chromium.

    Args:
        folder: For the browser's profile.
        address: What is opened.
        act: Given the page; what it returns is returned.
        seconds: How long it may take.
    """
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    port = free_port()
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--remote-debugging-port={port}"]
    browser = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return asyncio.run(asyncio.wait_for(_visit(port, address, act), seconds))
    finally:
        browser.terminate()
        try:
            browser.wait(10)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()


async def _visit(port: int, address: str, act: Callable[[Page], Awaitable[Result]]) -> Result:
    import aiohttp

    end = time.monotonic() + 30
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    pages = [entry for entry in await response.json() if entry["type"] == "page"]
                if pages:
                    break
            except aiohttp.ClientError:
                pass  # not started yet
            assert time.monotonic() < end, "Chromium does not start"
            await asyncio.sleep(0.1)
        async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as connection:
            page = Page(connection)
            for domain in ("Page", "Runtime", "Log", "DOM"):
                await page.call(f"{domain}.enable")
            await page.call("Page.navigate", url=address)
            return await act(page)


def axe_core(folder: Path) -> str:
    """Return the source of axe-core; skip the test where npm cannot get it."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm")
    command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@4"]
    if subprocess.run(command, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("npm cannot get axe-core")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
