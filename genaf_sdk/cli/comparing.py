"""``genaf compare``: several methods on one's own encoder and data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from genaf_sdk.cli.output import CHECK_FAILED, DONE, Command, console, if_given
from genaf_sdk.evaluation.settings import COMPARED, AttackConfig
from genaf_sdk.settings import Count, converted
from genaf_sdk.terminal import printable

if TYPE_CHECKING:
    from genaf_sdk.rows import ComparisonRow

SHORTER = "Shorter: fewer --methods, --seeds or --attacks; it may be stopped, and goes on where it was."


@dataclass(frozen=True)
class Compare(Command):
    """Train several methods on the same data, put each under the same attacks, and print one table.

    A comparison that was stopped goes on where it was when it is started again with the same arguments.
    """

    methods: tuple[str, ...] = ("default", "fast", "fine-tuning", "pgd-at", "trades")
    """Names of presets; --list describes them."""
    encoder: str = "bundled:simclr-cifar10"
    """Encoder id, such as torchvision:resnet18; `genaf encoders` lists them."""
    data: str = "digits"
    """Data id, or a folder CLASS/IMAGE or train|val|test/CLASS/IMAGE."""
    seeds: tuple[int, ...] = (0,)
    """One run for each; the table shows mean and standard deviation."""
    output_dir: Path = Path("genaf-comparison")
    """Folder for comparison.jsonl, comparison.md and comparison.svg."""
    workers: Count = 1
    """Processes that share the runs and this machine's threads; more take as much more memory."""
    config: Annotated[Path | None, if_given("FILE")] = None
    """YAML or JSON file of settings as for `genaf harden`, of which encoder, data and, of its part `evaluation`, the
    attacks below count, or a report.json, with its --encoder and --data. Options override it."""
    settings: Annotated[AttackConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: COMPARED)
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List the methods, what they protect against and what they leave open, and end."""

    def __call__(self) -> int:
        """Run."""
        if self.list:
            return self._list_presets()
        from genaf_sdk.cells import local_processes
        from genaf_sdk.comparison import compare, seconds_of_comparison
        from genaf_sdk.estimates import duration

        converted(Count, self.workers, "workers")
        chosen: dict[str, Any] = {"seeds": self.seeds, "evaluation": self.settings, "output_dir": self.output_dir}
        seconds = seconds_of_comparison(self.encoder, self.data, self.methods, **chosen)
        if any(seconds.values()):
            listed = ", ".join(f"{name} {duration(taken)}" for name, taken in seconds.items() if taken)
            whole = duration(sum(seconds.values()))
            console(stderr=True).print(f"The comparison takes about {whole} here: {listed}. {SHORTER}")

        def show(row: ComparisonRow) -> None:
            figures = ", ".join(f"{name} {value:.1%}" for name, value in row.figures.items())
            console(stderr=True).print(f"{row.method}, seed {row.seed}: {figures}", highlight=False)

        with local_processes(self.workers) as executor:
            comparison = compare(
                self.encoder, self.data, self.methods, **chosen, progress=True, on_row=show, executor=executor
            )
        for cell in comparison.failed:
            console(stderr=True).print(f"Not measured: {printable(cell.text)}", highlight=False)
        rows = [json.loads(row.to_json()) for row in comparison.rows]
        self.answer(rows, comparison.table(), f"Everything is in {self.output_dir}.")
        return CHECK_FAILED if comparison.failed else DONE

    def _list_presets(self) -> int:
        from rich.text import Text

        from genaf_sdk.methods import presets

        words, content = [], []
        for name, (method, strength) in presets().items():
            listed = {"summary": strength.summary, "source": method.source}
            listed |= {"protects": strength.protects, "leaves_open": strength.leaves_open}
            words.append(
                Text.assemble(
                    *((name, "bold"), f": {listed['summary']} ", (listed["source"], "dim")),
                    f"\n  protects: {listed['protects']}\n  leaves open: {listed['leaves_open']}",
                )
            )
            content.append({"name": name, "method": method.name, **listed})
        self.answer(content, *words)
        return DONE
