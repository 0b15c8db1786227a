"""What an input is, is known in ``genaf_sdk/inputs`` alone: held by the syntax trees of all other rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "genaf_sdk"
CLAMPS = {"clamp", "clamp_", "clip", "clip_"}

STILL_TO_MOVE = {
    "report/gallery.py",
}
"""Files that know it too, until they ask ``inputs``. A file that is done has to be struck out."""


def knowledge_of_inputs(source: str) -> list[str]:
    """Return what a module knows of inputs: clipping, projecting, shapes of batches, memory layout."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == "channels_last":
            found.append(f"line {node.lineno}: the memory layout")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLAMPS:
            bounds = _bounds(node)
            if bounds is not None:
                found.append(f"line {node.lineno}: {bounds}")
        elif isinstance(node, ast.Compare) and _refuses_rank(node):
            found.append(f"line {node.lineno}: the shape of a batch")
    return found


def _bounds(call: ast.Call) -> str | None:
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    low = named.get("min", call.args[-2] if len(call.args) >= 2 else None)
    high = named.get("max", call.args[-1] if len(call.args) >= 2 else None)
    if low is None or high is None:
        return None
    if ast.unparse(low) in ("0", "0.0") and ast.unparse(high) in ("1", "1.0"):
        return "the range of pixels"
    if ast.unparse(low) == f"-{ast.unparse(high)}":
        return "a ball"
    if isinstance(low, ast.BinOp) and isinstance(high, ast.BinOp):
        same = ast.unparse(low.left) == ast.unparse(high.left) and ast.unparse(low.right) == ast.unparse(high.right)
        if same and isinstance(low.op, ast.Sub) and isinstance(high.op, ast.Add):
            return "a ball around inputs"
    return None


def _refuses_rank(node: ast.Compare) -> bool:
    """Return whether ``node`` is ``x.ndim != 4``; features may have any shape, and reading one is no refusal."""
    left, four = ast.unparse(node.left), node.comparators[0]
    rank = left.endswith((".ndim", ".dim()")) or (left.startswith("len(") and ".shape" in left)
    return rank and isinstance(node.ops[0], ast.NotEq) and isinstance(four, ast.Constant) and four.value == 4


@pytest.mark.parametrize(
    "line",
    [
        "x.clamp(0, 1)",
        "x.clamp_(0.0, 1.0)",
        "torch.clamp(x, 0, 1)",
        "x.clamp(min=0, max=1)",
        "x.clamp(-self.budget, self.budget)",
        "torch.clamp(x, y - b, y + b)",
        "x.to(memory_format=torch.channels_last)",
        "if x.ndim != 4: pass",
        "if len(x.shape) != 4: pass",
    ],
)
def test_what_is_looked_for_is_found(line: str) -> None:
    assert len(knowledge_of_inputs(f"def f():\n    {line}")) == 1


@pytest.mark.parametrize("line", ["x.clamp(min=1e-6)", "x.clamp(max=self.clamp)", "x.clamp(low, high)", "x.ndim == 3"])
def test_nothing_else_is(line: str) -> None:
    assert knowledge_of_inputs(line) == []


def test_only_inputs_knows_what_an_input_is() -> None:
    rooms = [
        path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in ("inputs", "export")
    ]
    assert len(rooms) > 80
    known = {
        path.relative_to(PACKAGE).as_posix(): knowledge_of_inputs(path.read_text(encoding="utf-8")) for path in rooms
    }
    found = {name: lines for name, lines in known.items() if lines}
    assert {name: lines for name, lines in found.items() if name not in STILL_TO_MOVE} == {}
    assert STILL_TO_MOVE - found.keys() == set(), "done: strike these out"
