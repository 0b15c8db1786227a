"""``genaf compare``: several methods on one's own encoder and data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genaf_sdk.cli.arguments import CompareArguments
from genaf_sdk.cli.output import CHECK_FAILED, DONE, console
from genaf_sdk.data.settings import LoadingConfig
from genaf_sdk.engine.machine import MachineConfig
from genaf_sdk.models.heads import DEFAULT
from genaf_sdk.models.tuning import TuningConfig
from genaf_sdk.settings import Count, converted
from genaf_sdk.terminal import printable

if TYPE_CHECKING:
    from genaf_sdk.rows import ComparisonRow

SHARED = ("head", "tuning", "loading", "machine")
"""Settings of a run that all methods of a comparison share."""
SHORTER = "Shorter: fewer --methods, --seeds or --attacks; it may be stopped, and goes on where it was."


@dataclass(frozen=True)
class Compare(CompareArguments):
    """Train several methods on the same data, put each under the same attacks, and print one table.

    A comparison that was stopped goes on where it was when it is started again with the same arguments.
    """

    head: str = DEFAULT
    """What turns features into logits, for all methods, as for `genaf harden`."""
    tuning: TuningConfig = TuningConfig()
    loading: LoadingConfig = LoadingConfig()
    machine: MachineConfig = MachineConfig()

    def __call__(self) -> int:
        """Run."""
        if self.list:
            return self._list_presets()
        from genaf_sdk.cells import local_processes
        from genaf_sdk.comparison import compare, configurations, seconds_of_comparison
        from genaf_sdk.estimates import duration

        converted(Count, self.workers, "workers")
        chosen: dict[str, Any] = {"seeds": self.seeds, "evaluation": self.settings, "output_dir": self.output_dir}
        shared = {name: getattr(self, name) for name in SHARED}
        methods = {name: config.with_(**shared) for name, config in configurations(self.methods, self.seeds).items()}
        seconds = seconds_of_comparison(self.encoder, self.data, methods, **chosen)
        if any(seconds.values()):
            listed = ", ".join(f"{name} {duration(taken)}" for name, taken in seconds.items() if taken)
            whole = duration(sum(seconds.values()))
            console(stderr=True).print(f"The comparison takes about {whole} here: {listed}. {SHORTER}")

        def show(row: ComparisonRow) -> None:
            figures = ", ".join(f"{name} {value:.1%}" for name, value in row.figures.items())
            console(stderr=True).print(f"{row.method}, seed {row.seed}: {figures}", highlight=False)

        with local_processes(self.workers) as executor:
            comparison = compare(
                self.encoder, self.data, methods, **chosen, progress=True, on_row=show, executor=executor
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
