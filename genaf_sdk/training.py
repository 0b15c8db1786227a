"""Both classifiers of a run, trained: the undefended one before the hardened one, or beside it where that is faster.

Of a small network at 32 pixels, two threads take a step in 87 % of the time that one takes, for a third more processor
time. So each training gets one thread. Whichever ends first, the attacks that need no hardened model come next: on the
published encoder, and on the undefended classifier. Weights are those of one training after the other on one thread.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from genaf_sdk.engine.lowrank import low_rank
from genaf_sdk.engine.train import train
from genaf_sdk.errors import RunStoppedError
from genaf_sdk.estimates import pays_side_by_side
from genaf_sdk.evaluation.evaluate import Ahead, begin_ahead
from genaf_sdk.evaluation.workers import Workers
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods.lab import Clock, Lab
from genaf_sdk.preparation import Candidate, frozen_parameters, new_classifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from genaf_sdk.engine.run import Run

UNDEFENDED = "undefended"


@dataclass
class Trained:
    """What training leaves behind.

    Args:
        model: The hardened classifier, in eval mode.
        undefended: The same encoder after standard fine-tuning, in eval mode; None without an evaluation.
        findings: What the method found on the way, by name.
        ahead: Attacks that are under way; None where none are.
    """

    model: HardenedModel
    undefended: HardenedModel | None
    findings: dict[str, Any]
    ahead: Ahead | None = None


class _Trainings:
    """Both trainings of a run.

    Args:
        run: Device, seed, checkpoints, history.
        candidate: The run as it was tried.
        clock: Of the report.
    """

    def __init__(self, run: Run, candidate: Candidate, clock: Clock) -> None:
        self.run, self.candidate, self.config, self.data = run, candidate, candidate.config, candidate.data
        self.frozen = frozen_parameters(candidate.published)
        new = partial(new_classifier, candidate.published, self.data, self.config.seed, head=self.config.head)
        self.undefended = new() if candidate.evaluate else None
        self.model = new()
        self.lab = Lab(run, self.model, self.data, self.frozen, clock=clock)

    def before(self, run: Run) -> dict[str, float]:
        """Train the undefended classifier, if there is one, and return how long that took."""
        if self.undefended is None:
            return {}
        lab = Lab(run, self.undefended, self.data, self.frozen)
        stage = lab.stage(UNDEFENDED, self.config.standard_fine_tuning())
        with low_rank(self.undefended, stage, self.config.tuning.lora_rank, lab.key("lora")) as adapted:
            train(run, self.undefended, self.data, adapted)
        lab.clock.stop(UNDEFENDED)
        return lab.clock.seconds

    def hardened(self) -> None:
        """Train the hardened classifier, stage by stage."""
        lab, rank = self.lab, self.config.tuning.lora_rank
        lab.clock.start()
        for stage in self.config.method.stages(lab):
            with low_rank(self.model, stage, rank, lab.key("lora")) as adapted:
                train(self.run, self.model, self.data, adapted)
            rank = None  # later stages train single layers
            lab.clock.stop(stage.name)

    def beside(self, own: object) -> dict[str, float]:
        """Train the undefended classifier in another thread; if that fails, the training here ends, too."""
        del own  # nothing is copied: nobody else has this model
        try:
            return self.before(self.run.beside())
        except BaseException:
            self.run.termination.asked = True
            raise

    def side_by_side(
        self, workers: Workers, surrogate: Tensor | None, *, attack: bool
    ) -> tuple[dict[str, float], Ahead]:
        """Train the hardened classifier while a worker trains the other one, and then attacks it.

        If either training fails, both end, and their state is kept.
        """
        candidate, config, on_attack = self.candidate, self.config, self.run.announce("evaluation")
        trained = workers.submit(self.beside)
        ahead = Ahead(workers, on_attack)
        try:
            if attack and self.undefended is not None:
                ahead = begin_ahead(
                    self.undefended, self.data, workers, encoder=candidate.published, surrogate=surrogate,
                    config=config.evaluation, seed=config.seed, on_attack=on_attack,
                )  # fmt: skip
            self.hardened()
        except RunStoppedError:
            trained.result()  # which is the reason, if it failed
            raise
        except BaseException:
            self.run.termination.asked = True
            raise
        return trained.result(), ahead


@contextmanager
def both_trained(
    run: Run, candidate: Candidate, clock: Clock, surrogate: Tensor | None = None, *, attack: bool = True
) -> Iterator[Trained]:
    """Context in which both classifiers are trained, and attacks may be under way.

    Args:
        run: Device, seed, checkpoints, history.
        candidate: The run as it was tried.
        clock: Gets the duration of each part; side by side, parts overlap.
        surrogate: The attacker's images, as for ``harden``.
        attack: Whether attacks are wanted.

    Raises:
        TrainingError: Training had to stop, in either thread.
        RunStoppedError: SIGTERM came; what was done is saved.
    """
    both = _Trainings(run, candidate, clock)
    with _workers(run, both) as workers:
        if workers.count == 1:
            seconds, ahead = both.before(run), None
            both.hardened()
        else:
            seconds, ahead = both.side_by_side(workers, surrogate, attack=attack)
            run.history.sort(key=lambda record: record["stage"] != UNDEFENDED)
        clock.seconds = {**seconds, **clock.seconds}
        yield Trained(both.model, both.undefended, both.lab.findings, ahead)


def _workers(run: Run, both: _Trainings) -> Workers:
    candidate = both.candidate
    if both.undefended is None or not pays_side_by_side(candidate, run.machine):
        return Workers()
    height, width = candidate.data.image_shape[1:]
    return Workers.suited([candidate.published, both.undefended, both.model], height * width, with_caller=True)
