"""Both classifiers of a run, trained: the undefended one before the hardened one, or beside it where that is faster.

Of a small network at 32 pixels, two threads take a step in 87 % of the time that one takes, for a third more processor
time. So each training gets one thread. Whichever ends first, the attacks that need no hardened model come next: on the
published encoder, and on the undefended classifier. Weights are those of one training after the other on one thread.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from genaf_sdk.engine.cost import Spent
from genaf_sdk.engine.faults import require_discerning
from genaf_sdk.engine.lowrank import low_rank
from genaf_sdk.engine.train import train
from genaf_sdk.errors import RunStoppedError
from genaf_sdk.estimates import pays_side_by_side
from genaf_sdk.evaluation.ahead import Ahead
from genaf_sdk.evaluation.evaluate import begin_ahead
from genaf_sdk.evaluation.kept import Kept
from genaf_sdk.evaluation.workers import Workers
from genaf_sdk.methods.lab import Clock, Lab
from genaf_sdk.preparation import Candidate, frozen_parameters, new_classifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from torch import Tensor

    from genaf_sdk.engine.run import Run
    from genaf_sdk.engine.stage import Stage

UNDEFENDED = "undefended"


class Trainings:
    """Both trainings of a run: the undefended classifier's, and stage by stage the hardened one's.

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
        self.ahead: Ahead | None = None
        self._beside: Future[dict[str, float]] | None = None
        self._seconds: dict[str, float] = {}

    def stages(self) -> Iterator[Stage]:
        """Yield what the hardened classifier has to be trained on, one stage after the other."""
        lab, rank = self.lab, self.config.tuning.lora_rank
        lab.clock.start()
        for stage in self.config.method.stages(lab):
            with low_rank(self.model, stage, rank, lab.key("lora")) as adapted:
                yield adapted
            rank = None  # later stages train single layers
            lab.clock.stop(stage.name, self.run.earlier.get(stage.name, Spent()))

    def begin(self, workers: Workers, surrogate: Tensor | None, *, attack: bool) -> None:
        """Train the undefended classifier, or have a worker do it beside the hardened one, and then attack it."""
        candidate, config = self.candidate, self.config
        if workers.count == 1:
            self._seconds = self._before(self.run)
            return
        on_attack = self.run.announce("evaluation")
        self._beside = workers.submit(self._in_a_worker)
        self.ahead = Ahead(workers, on_attack)
        if attack and self.undefended is not None:
            self.ahead = begin_ahead(
                self.undefended, self.data, workers, encoder=candidate.published, surrogate=surrogate,
                config=config.evaluation, seed=config.seed, on_attack=on_attack,
                kept=Kept(self.run.checkpoints.attacks, writes=self.run.processes.is_first),
            )  # fmt: skip

    def end(self) -> None:
        """Wait for the other training, and put records and seconds into the order of one after the other.

        Raises:
            TrainingError: It had to stop, or the hardened classifier puts all images into one class.
            RunStoppedError: SIGTERM came; what was done is saved.
        """
        if self._beside is not None:
            self._seconds = self._beside.result()
            self.run.history.sort(key=lambda record: record["stage"] != UNDEFENDED)
        self.lab.clock.seconds = {**self._seconds, **self.lab.clock.seconds}
        epochs = self.config.method.schedule.epochs
        discerns = partial(require_discerning, self.model, "hardened", self.data.validation, epochs)
        self.run.processes.together(discerns)

    def give_up(self, error: BaseException) -> None:
        """Have the other training end, too; if it failed first, that is the reason."""
        if isinstance(error, RunStoppedError) and self._beside is not None:
            self._beside.result()
        self.run.termination.asked = True

    def _before(self, run: Run) -> dict[str, float]:
        """Train the undefended classifier, if there is one, and return how long that took."""
        if self.undefended is None:
            return {}
        lab = Lab(run, self.undefended, self.data, self.frozen)
        stage = lab.stage(UNDEFENDED, self.config.standard_fine_tuning())
        with low_rank(self.undefended, stage, self.config.tuning.lora_rank, lab.key("lora")) as adapted:
            train(run, self.undefended, self.data, adapted)
        lab.clock.stop(UNDEFENDED, run.earlier.get(UNDEFENDED, Spent()))
        return lab.clock.seconds

    def _in_a_worker(self, own: object) -> dict[str, float]:
        """Train the undefended classifier; if that fails, the training in the main thread ends, too."""
        del own  # nothing is copied: nobody else has this model
        try:
            return self._before(self.run.beside())
        except BaseException:
            self.run.termination.asked = True
            raise


@contextmanager
def trainings(
    run: Run, candidate: Candidate, clock: Clock, surrogate: Tensor | None = None, *, attack: bool = True
) -> Iterator[Trainings]:
    """Context in which the hardened classifier is trained; the undefended one is, or another thread is at it.

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
    both = Trainings(run, candidate, clock)
    try:
        with _workers(run, both) as workers:
            try:
                both.begin(workers, surrogate, attack=attack)
                yield both
            except BaseException as error:
                both.give_up(error)
                raise
    finally:
        run.metrics.tell()  # of epochs that the other thread ended last; they are saved, and do not come again


def _workers(run: Run, both: Trainings) -> Workers:
    candidate = both.candidate
    if both.undefended is None or not pays_side_by_side(candidate, run.machine):
        return Workers()
    height, width = candidate.data.image_shape[1:]
    return Workers.suited([candidate.published, both.undefended, both.model], height * width, with_caller=True)
