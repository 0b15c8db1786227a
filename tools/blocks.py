"""Run the code blocks of Markdown files and notebooks, in order, in the current folder; stop at the first surprise.

    python tools/blocks.py README.md docs/how-to/configure.md examples/quickstart.ipynb

Blocks of Python share their names within a file; blocks of shell run one by one in bash, which stops at the first
command that fails. A block after a line such as "*Needs the network:*" is not run, nor is one in another language. Of a
notebook each cell is a block, named by its number. The last line says what a file cost, in processor seconds.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```(?P<language>[a-z]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"\*(Needs [^*]+?):?\*\s*\Z")
SHELL, PYTHON = ("sh", "bash"), ("python",)


@dataclass(frozen=True)
class Block:
    """One block of code: its file and first line, and why it is not run, if it is not."""

    path: Path
    line: int
    language: str
    code: str
    needs: str


def blocks(path: Path) -> list[Block]:
    """Return the blocks of a file that are Python or shell."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = enumerate(json.loads(text)["cells"], 1)
        return [
            Block(path, number, "python", "".join(cell["source"]), "")
            for number, cell in cells
            if cell["cell_type"] == "code"
        ]
    found = []
    for match in BLOCK.finditer(text):
        if match["language"] in (*SHELL, *PYTHON):
            needs = NEEDS.search(text[: match.start()])
            line = text.count("\n", 0, match.start()) + 2
            found.append(Block(path, line, match["language"], match["code"], needs[1] if needs else ""))
    return found


def run(path: Path) -> None:
    """Run the blocks of one file.

    Raises:
        Exception: Whatever a block of Python raises.
        CalledProcessError: A command of a shell block failed.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `genaf` and `python` of this environment
    for block in blocks(path):
        started = time.monotonic()
        print(f"{path}:{block.line} {block.language} {block.needs}".rstrip(), flush=True)
        if block.needs:
            continue
        if block.language in PYTHON:
            padding = "\n" * (block.line - 1)  # so that a traceback names the line of the Markdown
            exec(compile(padding + block.code, path, "exec"), names)  # noqa: S102  # the repository's own text
        else:
            subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], env=os.environ | {"PATH": tools}, check=True)  # noqa: S607
        print(f"  {time.monotonic() - started:.1f} s", flush=True)
    print(f"{path}: {sum(os.times()[:4]):.0f} processor seconds so far", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
