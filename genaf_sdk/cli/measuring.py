"""Commands that measure: ``genaf evaluate``, ``attack``, ``verify`` and ``report``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from genaf_sdk.cli.output import CHECK_FAILED, DONE, Command, console, if_given, print_whole
from genaf_sdk.errors import OutputError
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.settings import Count, converted

if TYPE_CHECKING:
    from genaf_sdk.models.encoder import PixelEncoder
    from genaf_sdk.report.robustness import RobustnessReport

UNFINISHED = "unfinished"
"""Below the output folder: what an evaluation has crafted, until its report is there."""
SHORTER_ATTACK = "Shorter: fewer steps of the attack, or fewer images (--samples)."
SHORTER_EVALUATION = "Shorter: fewer attacks (--attacks), no curve (--curve), or fewer images (--test-samples)."


@dataclass(frozen=True)
class Evaluate(Command):
    """Attack a hardened model (a folder that `genaf harden` left, or a Hub id) and write a report."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder or Hub id of a hardened model."""
    data: str = "digits"
    """Data id or image folder, as for `genaf harden`."""
    encoder: Annotated[str | None, if_given("ID")] = None
    """Published encoder for the transfer column; by default the bundled one, where the model was made from that."""
    output_dir: Annotated[Path | None, if_given("FOLDER")] = None
    """Folder for report.json, report.html and perturbations/, where an evaluation that was stopped goes on; by default
    nothing is written."""
    seed: int = 0
    """Random seed for the attacks and the validation split."""
    config: Annotated[Path | None, if_given("FILE")] = None
    """YAML or JSON file of settings as for `genaf harden`, of which the part `evaluation` counts, or a report.json."""
    settings: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluationConfig)

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.data import load_data
        from genaf_sdk.encoders import own_source
        from genaf_sdk.engine.accelerator import own_device
        from genaf_sdk.estimates import duration, seconds_of_evaluation
        from genaf_sdk.evaluation.evaluate import evaluate
        from genaf_sdk.evaluation.kept import Kept
        from genaf_sdk.export.bundle import save_report
        from genaf_sdk.files import trial_folder
        from genaf_sdk.hardened import HardenedModel
        from genaf_sdk.models.checksums import require_outside
        from genaf_sdk.progress import make_display

        place = None if self.output_dir is None else require_outside(self.output_dir)
        with nullcontext() if place is None else trial_folder(place) as folder:
            model = HardenedModel.from_pretrained(self.model).to(own_device())
            data = load_data(
                self.data,
                image_size=model.image_size,
                channels=model.encoder.channels,
                interpolation=model.encoder.interpolation,
                seed=self.seed,
                leave_out=folder,
            )
            source = model.encoder.source
            encoder = self.encoder or own_source(source) or None
            seconds = seconds_of_evaluation(model, data, self.settings, public=encoder is not None)
            console(stderr=True).print(f"The evaluation takes about {duration(seconds)} here. {SHORTER_EVALUATION}")
            with make_display(wanted=True) as display:
                task = display.add_task("evaluation", total=None)

                def show(attack: str) -> None:
                    display.update(task, figures=attack)

                kept = Kept(None if folder is None else folder / UNFINISHED)
                report = evaluate(
                    model, data, encoder=encoder, config=self.settings, seed=self.seed, on_attack=show, kept=kept
                )
            if encoder is None and source:
                report.notes.append(f"The transfer column needs the published encoder: --encoder {source}")
            if folder is not None:
                save_report(report, folder)
            if not report.failures:  # which another call tries again
                kept.clear()
            self.answer_report(report)
            if folder is not None and not self.json:
                console().print(f"Everything is in {folder}.")
            return CHECK_FAILED if report.failures else DONE


@dataclass(frozen=True)
class Attack(Command):
    """Craft one universal perturbation on an encoder and save it."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ATTACK")]
    """Attack on encoders, as `genaf attacks` lists them, with settings of its own: uapgd:steps=300,goals=0."""
    output: Path = Path("perturbation.safetensors")
    """File to write."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace that file if it exists already."""
    encoder: str = "bundled:simclr-cifar10"
    """Encoder id to craft on, or the folder of a hardened model."""
    data: str = "digits"
    """Data id or image folder, whose training images, without labels, serve as surrogate."""
    budget: Annotated[float | None, if_given("NUMBER")] = None
    """L_inf budget as a share of the pixel range, such as 8/255, or the area of a patch as a share of the image; by
    default the attack's own."""
    samples: Count = 1024
    """How many surrogate images."""
    seed: int = 0
    """Random seed of the attack, and of which images it is crafted on."""

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.attacks import EncoderAttack, load_attack
        from genaf_sdk.data import load_data
        from genaf_sdk.encoders import load_encoder
        from genaf_sdk.engine.accelerator import own_device
        from genaf_sdk.errors import AttackError
        from genaf_sdk.estimates import duration, seconds_of_a_pass
        from genaf_sdk.files import require_new, trial_folder
        from genaf_sdk.hardened import HardenedModel
        from genaf_sdk.models.checksums import require_outside
        from genaf_sdk.progress import make_display

        require_new(require_outside(self.output), overwrite=self.overwrite)
        with trial_folder(self.output.parent):
            converted(Count, self.samples, "samples")
            attack = load_attack(self.name)
            if not isinstance(attack, EncoderAttack):
                raise AttackError(
                    f"{self.name!r} attacks whole models.",
                    expected="an attack on encoders",
                    remedy="use `genaf evaluate --attacks`",
                )
            attack = attack if self.budget is None else attack.with_budget(self.budget)
            encoder: PixelEncoder
            if Path(self.encoder).is_dir():
                encoder = HardenedModel.from_pretrained(self.encoder).encoder
            else:
                encoder = load_encoder(self.encoder)
            data = load_data(
                self.data,
                image_size=encoder.image_size,
                channels=encoder.channels,
                interpolation=encoder.interpolation,
            )
            pixels, _ = data.train.sample(self.samples, seed=self.seed)
            pixels, encoder = pixels.to(own_device()), encoder.to(own_device())
            passes = attack.passes(len(pixels))
            if passes:  # some attacks state no cost
                seconds = passes * seconds_of_a_pass(encoder, data, passes)
                console(stderr=True).print(f"{attack.name} takes about {duration(seconds)} here. {SHORTER_ATTACK}")
            with make_display(wanted=True) as display:
                display.update(display.add_task("crafting", total=None), figures=attack.name)
                perturbation = attack(encoder, pixels, seed=self.seed)
            perturbation.save(self.output)
            spent = perturbation.details["seconds"]
            content = {"attack": self.name, "file": str(self.output), "budget": perturbation.budget, "seconds": spent}
            self.answer(content, f"{self.name} in {spent} s: {self.output}")
            return DONE


@dataclass(frozen=True)
class Verify(Command):
    """Hold a bundle against itself and your images; exit with 1 where something differs from what it states."""

    bundle: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder that `genaf harden` left, or hf-hub:ORG/NAME."""
    data: Annotated[str | None, if_given("DATA")] = None
    """Data id or image folder; by default the data set of the report, if it has an id and lies on this machine."""
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Attack anew, with your own seed: the way to check a bundle of somebody else's. Any images of the task do."""
    seed: Annotated[int | None, if_given("INT")] = None
    """Seed of the fresh attacks; by default one that nobody could know."""
    encoder: Annotated[str | None, if_given("ID")] = None
    """With --fresh: the published encoder, from which attacks are transferred; by default that of this package, where
    the report names it."""
    signed_by: Annotated[str | None, if_given("KEY")] = None
    """Refuse a bundle that is not signed with this key: PEM file of a public key, or of the certificate of an
    authority; or sigstore:IDENTITY,ISSUER, which needs the network."""

    def __call__(self) -> int:
        """Run."""
        from rich.table import Table

        from genaf_sdk.export.hub import local_bundle
        from genaf_sdk.progress import make_display
        from genaf_sdk.verification import verify

        folder = local_bundle(self.bundle)
        with make_display(wanted=True) as display:
            task = display.add_task("verifying", total=None)

            def show(text: str) -> None:
                display.update(task, figures=text)

            show("what the bundle states")
            found = verify(
                folder,
                self.data,
                fresh=self.fresh,
                seed=self.seed,
                signed_by=self.signed_by,
                encoder=self.encoder,
                on_attack=show,
            )
        table = Table("what", "was", "stated", "found", "agrees")
        for item in found.items:
            agrees = {True: "yes", False: "NO", None: ""}[item.agrees]
            table.add_row(item.what, str(item.outcome), item.stated, item.found, agrees)
        items = [asdict(item) for item in found.items]
        self.answer({"agrees": found.agrees, "summary": found.summary, "items": items}, table, found.summary)
        return DONE if found.agrees else CHECK_FAILED


@dataclass(frozen=True)
class Report(Command):
    """Show the report of a folder on the terminal, and write its HTML page anew.

    The page of a signed bundle stays as it was signed, and that of a folder that cannot be written stays as it is;
    --output writes a page elsewhere.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder that `genaf harden` or `genaf evaluate` left."""
    output: Annotated[Path | None, if_given("FILE")] = None
    """HTML file to write; by default report.html in the folder."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace the file of --output if it exists already."""
    markdown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the short form for a model card or a pull request instead, and write nothing."""

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.export.integrity import renew
        from genaf_sdk.export.layout import SIGNATURE_FILE
        from genaf_sdk.files import require_new
        from genaf_sdk.models.checksums import check_listed, require_outside
        from genaf_sdk.report.markdown import markdown_summary
        from genaf_sdk.report.robustness import HTML_FILE, REPORT_FILE, RobustnessReport

        if not (self.folder / REPORT_FILE).is_file():
            raise OutputError(
                f"{self.folder} holds no {REPORT_FILE}.",
                expected="a folder that `genaf harden` or `genaf evaluate --output-dir` left",
            )
        check_listed(self.folder, renewed=HTML_FILE)
        report = RobustnessReport.load(self.folder)
        if self.markdown:
            text = markdown_summary(report)
            if self.json:
                self.answer({"markdown": text})
            else:
                print_whole(text.rstrip())
            return DONE
        own = self.folder / HTML_FILE
        signed = (self.folder / SIGNATURE_FILE).exists()
        if self.output is not None and self.output.resolve() != own.resolve():
            report.save_html(require_new(require_outside(self.output), overwrite=self.overwrite))
            return self._shown(report, self.output)
        if signed and self.output is not None:
            raise OutputError(
                f"{self.folder} is signed, and {self.output} would break the signature.",
                expected="a file elsewhere",
                remedy="choose another --output",
            )
        if signed:
            return self._shown(report, own)
        try:
            report.save_html(own)
            renew(self.folder, HTML_FILE)
        except OutputError as error:
            self.answer_report(report)
            said = f"The page was not written: {error.problem} To do: name a file elsewhere by --output."
            console(stderr=True).print(said, style="red", highlight=False)
            return CHECK_FAILED
        return self._shown(report, own)

    def _shown(self, report: RobustnessReport, page: Path) -> int:
        self.answer_report(report)
        if not self.json:
            console().print(str(page))
        return DONE
