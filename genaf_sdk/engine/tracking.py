"""Where a run's figures go while it runs: ``metrics.jsonl``, and the trackers of accelerate."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from genaf_sdk.errors import ConfigError
from genaf_sdk.files import replacing
from genaf_sdk.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Sequence


METRICS_FILE, PROJECT = "metrics.jsonl", "genaf-sdk"
logger = logging.getLogger(__name__)
LogWith: TypeAlias = "str | GeneralTracker | Sequence[str | GeneralTracker] | None"


def require_trackers(log_with: LogWith, folder: Path | None) -> list[Any]:
    """Return ``log_with`` as a list, once every tracker in it is known to work here.

    Args:
        log_with: Name of a tracker of accelerate, a ``GeneralTracker`` of one's own, or several; None is none.
        folder: Where trackers that write files write them.

    Raises:
        ConfigError: A tracker is unknown or not installed, or needs a folder and there is none.
    """
    given: Any = () if log_with is None else log_with
    wanted = [given] if isinstance(given, (str, GeneralTracker)) else list(given)
    installed = {str(name): name for name in get_available_trackers()}
    for name in wanted:
        if isinstance(name, GeneralTracker):
            continue
        if name not in LOGGER_TYPE_TO_CLASS:
            raise unknown(f"There is no tracker {name!r}.", name, map(str, LOGGER_TYPE_TO_CLASS), ConfigError)
        if name not in installed:
            raise ConfigError(f"The tracker {name!r} is not installed.", remedy=f"pip install {name}")
        if LOGGER_TYPE_TO_CLASS[name].requires_logging_directory and folder is None:
            raise ConfigError(f"The tracker {name!r} writes files.", remedy="give an output_dir")
    return wanted


@dataclass
class Metrics:
    """Reports the metrics of a run as they come (main process only).

    Args:
        accelerator: Its trackers are told, if they are initialized.
        folder: Where ``metrics.jsonl`` is kept: one JSON object an epoch, then one for each score. None keeps none.
        untold: Values and step of another thread, for trackers that belong to the one which began.
        ended: How many records stand in the history, but are not told yet: their checkpoints are being written.
    """

    accelerator: Accelerator | None = None
    folder: Path | None = None
    untold: list[tuple[dict[str, float], int]] = field(default_factory=list)
    ended: int = 0
    _owner: int = field(default_factory=threading.get_ident)

    def start(self, settings: dict[str, Any]) -> None:
        """Initialize the accelerator's trackers, unless its owner has; ``settings`` are nested plain objects."""
        accelerator = self.accelerator
        if accelerator is not None and accelerator.log_with and not accelerator.trackers:
            accelerator.init_trackers(PROJECT, config=dict(_flat(settings)))

    def epoch(self, history: list[dict[str, Any]], record: dict[str, Any]) -> None:
        """Tell a new ``record`` of the ``history``; the file is written anew, so that a resumed run repeats no line.

        Trackers get the number of records told so far as their step: it never falls, whichever of two threads is first.
        """
        self.ended -= 1
        self._write(history)
        if self.accelerator is not None and self.accelerator.trackers:
            values = {
                f"{record['stage']}/{name}": value for name, value in record.items() if isinstance(value, (int, float))
            }
            self._log(values, len(history) - self.ended)

    def scores(self, history: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        """Report the accuracies of a report's rows, shares in [0, 1]; rows as they stand in ``report.json``."""
        self._write([*history, *({"stage": "evaluation", **row} for row in rows)])
        if self.accelerator is not None and self.accelerator.trackers:
            values = {
                "/".join(part for part in (row["model"], row["column"], row["attack"]) if part): row["accuracy"]
                for row in rows
            }
            self._log(values, len(history))

    def _log(self, values: dict[str, float], step: int) -> None:
        """Tell the trackers; one that fails, whatever its author let it raise, costs its curve and no training."""
        self.untold.append((values, step))
        self.tell()

    def tell(self) -> None:
        """Tell the trackers what another thread has left to the one that they belong to; elsewhere, nothing."""
        if threading.get_ident() != self._owner or self.accelerator is None:
            return
        waiting, self.untold = self.untold, []
        for values, step in waiting:
            try:
                self.accelerator.log(values, step=step)
            except Exception as error:
                logger.error("A tracker was not told of step %d: %s: %s", step, type(error).__name__, error)

    def _write(self, records: list[dict[str, Any]]) -> None:
        if self.folder is None or (self.accelerator is not None and not self.accelerator.is_main_process):
            return
        with replacing(self.folder / METRICS_FILE) as temporary:
            lines = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
            temporary.write_text("".join(lines), encoding="utf-8")


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str | float]]:
    """Return nested settings by dotted name, as trackers take them: numbers and text."""
    rows: list[tuple[str, str | float]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, value if isinstance(value, (int, float, str)) else str(value)))
    return rows
