"""``genaf compare``: several methods on one's own encoder and data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from genaf_sdk.cli.output import DONE, Command, console


@dataclass(frozen=True)
class Compare(Command):
    """Train several methods on the same data, attack each, and print one table.

    A comparison that was stopped goes on where it was when it is started again with the same arguments.
    """

    methods: tuple[str, ...] = ("default", "fast", "fine-tuning", "pgd-at", "trades")
    """Names of presets."""
    encoder: str = "bundled:simclr-cifar10"
    """Encoder id, such as torchvision:resnet18."""
    data: str = "digits"
    """Data id, or a folder."""
    seeds: tuple[int, ...] = (0,)
    """One run for each; the table shows mean and standard deviation."""
    output_dir: Path = Path("genaf-comparison")
    """Folder for comparison.jsonl, comparison.md and comparison.svg."""
    list: bool = False
    """List the methods, what they protect against and what they leave open, and end."""

    def __call__(self) -> int:
        """Run."""
        if self.list:
            return self._list_presets()
        from genaf_sdk.comparison import ComparisonRow, compare

        def show(row: ComparisonRow) -> None:
            figures = ", ".join(f"{name} {value:.1%}" for name, value in row.figures.items())
            console(stderr=True).print(f"{row.method}, seed {row.seed}: {figures}", highlight=False)

        comparison = compare(
            self.encoder, self.data, self.methods, seeds=self.seeds, output_dir=self.output_dir, on_row=show
        )
        rows = [json.loads(row.to_json()) for row in comparison.rows]
        self.answer(rows, comparison.table(), f"Everything is in {self.output_dir}.")
        return DONE

    def _list_presets(self) -> int:
        from rich.text import Text

        from genaf_sdk.methods import presets

        words, content = [], []
        for name, (method, strength) in presets().items():
            listed = {"summary": strength.summary, "source": method.source}
            listed |= {"protects": strength.protects, "leaves_open": strength.leaves_open}
            words.append(
                Text.assemble(
                    *((name, "bold"), f" {listed['summary']} ", (listed["source"], "dim")),
                    f"\n  protects: {listed['protects']}\n  leaves open: {listed['leaves_open']}",
                )
            )
            content.append({"name": name, "method": method.name, **listed})
        self.answer(content, *words)
        return DONE
