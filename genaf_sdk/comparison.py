"""compare(): several methods on the same encoder, data and attacks, over several seeds."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genaf_sdk.cells import Cells
from genaf_sdk.config import HardenConfig
from genaf_sdk.data.settings import LoadingConfig
from genaf_sdk.encoders import load_encoder
from genaf_sdk.engine.accelerator import own_accelerator
from genaf_sdk.engine.randomness import kept_random_state
from genaf_sdk.errors import ConfigError
from genaf_sdk.estimates import seconds_of_evaluation, seconds_of_parts
from genaf_sdk.evaluation.settings import COMPARED, AttackConfig, EvaluationConfig
from genaf_sdk.files import trial_folder
from genaf_sdk.methods import Method
from genaf_sdk.preflight import require_attacks
from genaf_sdk.preparation import load_images, new_candidate, resolved
from genaf_sdk.rows import ROWS_FILE, Comparison, ComparisonRow, FailedCell, append_row, read_rows, what_moved
from genaf_sdk.trials import Crafting, Group, Measuring, measure, row_without_scores
from genaf_sdk.unfinished import Unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import nn

    from genaf_sdk.cells import Executor
    from genaf_sdk.data import DataSplits
    from genaf_sdk.evaluation.ahead import Transferred

METHODS = ("default", "fast", "fine-tuning", "pgd-at", "trades")

logger = logging.getLogger(__name__)


def compare(
    encoder: str | nn.Module,
    dataset: Any,
    methods: Sequence[str | Method] | Mapping[str, HardenConfig] = METHODS,
    *,
    seeds: Sequence[int] = (0,),
    evaluation: AttackConfig | None = None,
    output_dir: str | Path | None = None,
    progress: bool | None = None,
    on_row: Callable[[ComparisonRow], object] | None = None,
    executor: Executor | None = None,
) -> Comparison:
    """Train each method with each seed on the same data and put it under the same attacks.

    What is in ``output_dir`` already is not computed again, so that a comparison that was stopped goes on, with the row
    that it was at, too. Rows count that are of the same encoder, images, settings, and settings of each attack,
    defaults included; where a method or an attack is somebody else's, of the same code, too. Where a row there has
    others, or does not state them, it is measured anew, a warning names what differs, and the old row is kept.
    Transferred perturbations are crafted once a seed, adaptive ones on every model's own encoder.

    Args:
        encoder: As for ``harden``.
        dataset: As for ``harden``; split by the seed where it has no splits of its own.
        methods: Names of presets or methods, methods themselves, or configurations by names of your own.
        seeds: Of training and evaluation.
        evaluation: Attacks; by default those of ``evaluate``, and PGD at half its budget. All methods meet the same,
            whatever their own settings say. What rows do not hold (curve, checks, certificates, corruptions) is left
            out.
        output_dir: Gets ``comparison.jsonl``, a line for each row as soon as it is there, and at the end
            ``comparison.md`` and ``comparison.svg``; meanwhile ``unfinished``, with checkpoints and perturbations of
            rows that are not there yet. Other processes may write there, too: a row is there once. A new folder that
            gets nothing is not left behind.
        progress: As for ``harden``.
        on_row: Called with every row, those that were there already included.
        executor: Runs the cells, each a method with a seed: any of ``concurrent.futures``, or what has its ``submit``.
            Encoder and data travel there as they are given, so ids are best. A cell that fails is in ``failed`` of
            what is returned, and the others go on. This process alone writes. Without one, cells run here, one after
            the other, and what a cell raises ends the comparison.

    Raises:
        ConfigError: A method is unknown, or there is none, or one of two of the same name.
        AttackError: An attack failed: a row without it would flatter its method.
        GenafError: As ``harden`` and ``evaluate`` raise.
    """
    configs = configurations(methods, seeds)
    with contextlib.nullcontext() if output_dir is None else trial_folder(Path(output_dir)) as folder:
        public, attacks = load_encoder(encoder), _attacks_alone(evaluation)
        known, comparison, groups = _known(folder), Comparison(), list[Group]()
        missing: dict[tuple[str, int], ComparisonRow] = {}
        unfinished = Unfinished(folder)

        def add(row: ComparisonRow, *, is_new: bool = True) -> None:
            if is_new and folder is not None:
                row = append_row(folder / ROWS_FILE, row)
            unfinished.forget(row)
            comparison.rows.append(row)
            if on_row is not None:
                on_row(row)

        for seed in seeds:
            loaded: dict[LoadingConfig, tuple[DataSplits, Transferred, Group]] = {}
            for name, chosen in configs.items():
                config = chosen.with_(seed=seed, evaluation=attacks)
                if config.loading not in loaded:
                    data = load_images(dataset, public, config, folder)
                    groups.append(Group(encoder, dataset, folder, data.fingerprint, {}))
                    loaded[config.loading] = (data, [], groups[-1])
                data, crafted, group = loaded[config.loading]
                public = data.space.placed(public)
                require_attacks(attacks.attacks, public, data, seed)
                asked = row_without_scores(name, config, public, group.fingerprint)
                identity = asked.identity
                known = known if identity in known else _known(folder)  # another process may have added it meanwhile
                if identity in known:
                    add(known[identity], is_new=False)
                    continue
                _tell_what_moved(known.values(), asked)
                if executor is None:
                    add(measure(name, config, public, data, crafted, folder, progress))
                else:
                    group.missing[name] = config
                    missing[name, seed] = asked
        for measured in () if executor is None else _measured_on(executor, groups):
            if isinstance(measured, FailedCell):
                comparison.failed.append(measured)
            else:
                unfinished.forget(measured)
                asked = missing[measured.method, measured.seed]  # a class that travels may leave its source behind
                add(replace(measured, attacks=asked.attacks, code=asked.code))
        order = [(name, seed) for seed in seeds for name in configs]
        comparison.rows.sort(key=lambda row: order.index((row.method, row.seed)))
        if folder is not None:
            comparison.save(folder)
        unfinished.end()
        return comparison


def seconds_of_comparison(
    encoder: str | nn.Module,
    dataset: Any,
    methods: Sequence[str | Method] | Mapping[str, HardenConfig] = METHODS,
    *,
    seeds: Sequence[int] = (0,),
    evaluation: AttackConfig | None = None,
    output_dir: str | Path | None = None,
) -> dict[str, float]:
    """Return about how many seconds ``compare`` of the same arguments takes here, by method, one run after the other.

    A few steps of every method are timed on images of the first seed. Runs that are in ``output_dir`` count nothing.

    Raises:
        ConfigError: A method is unknown, or there is none.
        GenafError: Encoder, attacks or images cannot be loaded, or the folder cannot be written.
    """
    configs, public = configurations(methods, seeds), load_encoder(encoder)
    folder = None if output_dir is None else Path(output_dir)
    with contextlib.nullcontext() if folder is None else trial_folder(folder):
        rows = list(_known(folder).values())
    images, found = dict[tuple[int, LoadingConfig], str](), dict[str, float]()

    def is_there(name: str, config: HardenConfig) -> bool:
        asked, key = row_without_scores(name, config, public, ""), (config.seed, config.loading)
        alike = [row for row in rows if replace(row, data="").identity == asked.identity]
        if alike and key not in images:  # read for this alone where a row depends on it
            images[key] = load_images(dataset, public, config, folder).fingerprint
        return any(row.data == images[key] for row in alike)

    with own_accelerator("no") as engine, kept_random_state():
        for name, chosen in configs.items():
            config = chosen.with_(seed=seeds[0], evaluation=_attacks_alone(evaluation))
            missing = sum(not is_there(name, config.with_(seed=seed)) for seed in seeds)
            if not missing:
                continue
            data = load_images(dataset, public, config, folder)
            candidate = new_candidate(data.space.placed(public), data, config, engine, None, evaluate=False)
            training = sum(seconds_of_parts(candidate).values())
            candidate.model.to(engine.device)
            attacking = seconds_of_evaluation(candidate.model, data, config.evaluation, public=not found)
            found[name] = (training + attacking) * missing
    return found


def _measured_on(executor: Executor, groups: list[Group]) -> Iterator[ComparisonRow | FailedCell]:
    """Craft for each group, then measure its methods; yield rows, and what failed, as they end."""
    with Cells[Crafting | Measuring](executor) as cells:
        for group in groups:
            if group.missing:
                cells.submit(Crafting(group))
        for cell, result in cells:
            if isinstance(result, Exception):
                failed = {cell.method: cell.config} if isinstance(cell, Measuring) else cell.group.missing
                reason = " ".join(f"{type(result).__name__}: {result}".split())
                yield from (FailedCell(name, config.seed, reason) for name, config in failed.items())
            elif isinstance(cell, Crafting):
                for name, config in cell.group.missing.items():
                    cells.submit(Measuring(cell.group, name, config, result))
            else:
                yield result


def _attacks_alone(given: AttackConfig | None) -> EvaluationConfig:
    """Return an evaluation that does what rows hold, and no more."""
    stated = {field.name: getattr(given or COMPARED, field.name) for field in fields(AttackConfig)}
    return EvaluationConfig(**stated, curve=(), checks=False)


def configurations(
    methods: Sequence[str | Method] | Mapping[str, HardenConfig], seeds: Sequence[int]
) -> dict[str, HardenConfig]:
    """Return the settings of each method by its name.

    Raises:
        ConfigError: A method is unknown, or there is none, or one of two of the same name; likewise seeds.
    """
    for name, given in (("methods", methods), ("seeds", seeds)):
        if isinstance(given, (str, int)) or not given:
            raise ConfigError(f"{name} is {given!r}.", expected="a list of at least one")
    odd = [each for each in methods if not isinstance(each, (str, Method))]
    if odd:
        raise ConfigError(
            f"A method is {odd[0]!r:.100}.",
            expected="a name, or a method",
            remedy="give configurations as a mapping, by names of your own",
        )
    names = [each.name if isinstance(each, Method) else each for each in methods]
    remedies = "give settings of one method as a mapping, by names of your own", "give each seed once"
    counts: tuple[Counter[str] | Counter[int], ...] = (Counter(names), Counter(seeds))
    for count, remedy in zip(counts, remedies, strict=True):
        twice = [value for value, times in count.items() if times > 1]
        if twice:
            raise ConfigError(
                f"{twice[0]!r} is there twice.",
                expected="methods of different names, and different seeds",
                remedy=remedy,
            )
    if isinstance(methods, Mapping):
        return {name: resolved(config, None) for name, config in methods.items()}
    chosen = (resolved(None if isinstance(method, str) else HardenConfig(), method) for method in methods)
    return dict(zip(names, chosen, strict=True))


def _known(folder: Path | None) -> dict[str, ComparisonRow]:
    """Return the rows in a folder by identity, the newest first."""
    return {} if folder is None else {row.identity: row for row in reversed(read_rows(folder / ROWS_FILE))}


def _tell_what_moved(rows: Iterable[ComparisonRow], asked: ComparisonRow) -> None:
    """Warn where there is a row of this method and seed, and it cannot be used; ``rows``: the newest first."""
    before = next((row for row in rows if (row.method, row.seed) == (asked.method, asked.seed)), None)
    if before is not None:
        moved = "; ".join(what_moved(before, asked))
        text = "%s, seed %d is measured anew, as its row has: %s. That row stays in %s."
        logger.warning(text, asked.method, asked.seed, moved, ROWS_FILE)
