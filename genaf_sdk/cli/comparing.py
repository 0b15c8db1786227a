"""``genaf compare``: several methods on one's own encoder and data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genaf_sdk.cli.output import console
from genaf_sdk.presets import PRESETS


@dataclass(frozen=True)
class Compare:
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
            for name, entry in PRESETS.items():
                console().print(f"[bold]{name}[/] {entry.summary} [dim]{entry.source}[/]")
                console().print(f"  protects: {entry.protects}\n  leaves open: {entry.leaves_open}")
            return 0
        from genaf_sdk.comparison import ComparisonRow, compare

        def show(row: ComparisonRow) -> None:
            figures = ", ".join(f"{name} {value:.1%}" for name, value in row.figures.items())
            console(stderr=True).print(f"{row.method}, seed {row.seed}: {figures}", highlight=False)

        comparison = compare(
            self.encoder, self.data, self.methods, seeds=self.seeds, output_dir=self.output_dir, on_row=show
        )
        console().print(comparison.table())
        console().print(f"Everything is in {self.output_dir}.")
        return 0
