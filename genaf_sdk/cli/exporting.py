"""``genaf export``: one ONNX file, a model repository for Triton, a manifest for KServe, a folder for transformers."""

from __future__ import annotations

import dataclasses
import shlex
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from genaf_sdk.cli.output import DONE, Command, if_given
from genaf_sdk.errors import ConfigError
from genaf_sdk.files import require_new, trial_folder
from genaf_sdk.models.checksums import require_outside

if TYPE_CHECKING:
    from genaf_sdk.export.parity import Parity

DEFAULT_OUTPUT = Path("model.onnx")


@dataclass(frozen=True)
class TritonOptions:
    """How tritonserver runs the model (with --triton)."""

    precision: str = "fp32"
    """With --triton: which of the bundle's files, fp32, fp16, int8 or uint8."""
    max_batch: int = 32
    """With --triton: most images of one run."""
    max_delay: float = 0.0
    """With --triton: seconds that a batch waits to fill up."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """With --triton: where it runs; auto is a GPU where there is one."""
    instances: int = 1
    """With --triton: copies on each device that run at the same time."""
    tensorrt: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --triton: run by TensorRT inside onnxruntime, at the precision of the file."""


@dataclass(frozen=True)
class KServeOptions:
    """What Kubernetes gives the service (with --kserve)."""

    storage_uri: str = ""
    """With --kserve: where the Triton repository will lie, such as s3://bucket/repository."""
    image: str = ""
    """With --kserve, instead of --storage-uri: a container image built from the bundle's serve/Dockerfile."""
    namespace: str = ""
    """With --kserve: namespace of the service; empty is kubectl's own."""
    cpu: str = "2"
    """With --kserve: cores of a replica, as Kubernetes writes them."""
    memory: str = "4Gi"
    """With --kserve: memory of a replica, as Kubernetes writes it."""
    gpus: int = 0
    """With --kserve: NVIDIA GPUs of a replica."""
    replicas: tuple[int, int] = (1, 1)
    """With --kserve: how many replicas there are, fewest and most."""


@dataclass(frozen=True)
class Export(Command):
    """Write a hardened model for others: as ONNX, compared with it; for Triton; for KServe; for transformers."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder or Hub id of a hardened model; for --triton the folder that `genaf harden` left, or hf-hub:ORG/NAME."""
    output: Annotated[Path | None, tyro.conf.Positional, if_given("[FILE]")] = None
    """ONNX file to write; by default model.onnx, or none where --triton, --kserve or --transformers is given."""
    triton: Annotated[Path | None, if_given("FOLDER")] = None
    """Folder of a Triton model repository to add the model to."""
    kserve: Annotated[Path | None, if_given("FILE")] = None
    """YAML file to write: an InferenceService, from --storage-uri or --image."""
    transformers: Annotated[Path | None, if_given("FOLDER")] = None
    """New folder for `transformers.pipeline`; takes a model of the head `linear` on an encoder of that library, and
    needs the extra `transformers`."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace files that exist already. Folders never are."""
    name: str = ""
    """Of the model in Triton and of the service in KServe; by default the last part of MODEL."""
    triton_options: Annotated[TritonOptions, tyro.conf.arg(name="")] = field(default_factory=TritonOptions)
    kserve_options: Annotated[KServeOptions, tyro.conf.arg(name="")] = field(default_factory=KServeOptions)

    def __call__(self) -> int:
        """Run."""
        for target, options in (("triton", self.triton_options), ("kserve", self.kserve_options)):
            given = [each.name for each in dataclasses.fields(options) if getattr(options, each.name) != each.default]
            if getattr(self, target) is None and given:
                named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
                raise ConfigError(f"Without --{target} there is nothing to do for {named}.", remedy=f"add --{target}")
        output = self.output
        if output is None and not (self.triton or self.kserve or self.transformers):
            output = DEFAULT_OUTPUT
        places = [place for place in (output, self.triton, self.kserve, self.transformers) if place is not None]
        for place in places:
            require_outside(place)
        for file in (output, self.kserve):
            if file is not None:
                require_new(file, overwrite=self.overwrite)
        with ExitStack() as tried:
            for place in places:
                tried.enter_context(trial_folder(place.parent))
            return self._write(output)

    def _write(self, output: Path | None) -> int:
        name = self.name or Path(self.model).resolve().name
        written: dict[str, Any] = {}
        shown = []
        if self.kserve is not None:  # first: it checks the most and costs the least
            written["kserve"] = str(self._write_kserve(self.kserve, name))
            shown.append(f"{self.kserve}: apply it with kubectl apply -f {shlex.quote(str(self.kserve))}")
        if self.triton is not None:
            written["triton"] = str(self._write_triton(self.triton, name))
            repository = shlex.quote(str(self.triton))
            shown.append(f"{written['triton']}: start it with tritonserver --model-repository={repository}")
        if self.transformers is not None:
            difference = self._write_transformers(self.transformers)
            written["transformers"] = {"folder": str(self.transformers), "difference": difference}
            shown.append(f"{self.transformers}: logits differ by {difference:.1e} from ours")
        if output is not None:
            path, parity = self._write_onnx(output)
            written |= {"file": str(path), "parity": dataclasses.asdict(parity)}
            shown.append(f"{path}: {parity.text}")
        self.answer(written, *shown)
        return DONE

    def _write_onnx(self, output: Path) -> tuple[Path, Parity]:
        import torch

        from genaf_sdk.export.parity import check_parity
        from genaf_sdk.export.to_onnx import export_onnx
        from genaf_sdk.hardened import HardenedModel

        model = HardenedModel.from_pretrained(self.model)
        path = export_onnx(model, output, color=_stated_color(self.model))
        images = torch.rand(5, model.encoder.channels, *model.image_size, generator=torch.Generator().manual_seed(0))
        return path, check_parity(model, path, images)

    def _write_transformers(self, folder: Path) -> float:
        from genaf_sdk.export.transformers import write_transformers
        from genaf_sdk.hardened import HardenedModel

        return write_transformers(HardenedModel.from_pretrained(self.model), folder)

    def _write_triton(self, repository: Path, name: str) -> Path:
        from genaf_sdk.export.hub import local_bundle
        from genaf_sdk.export.triton import write_triton_repository

        options = dataclasses.asdict(self.triton_options)
        return write_triton_repository(local_bundle(self.model), repository, name=name, **options)

    def _write_kserve(self, path: Path, name: str) -> Path:
        from genaf_sdk.export.kserve import write_kserve_manifest

        write_kserve_manifest(path, name, **dataclasses.asdict(self.kserve_options))
        return path


def _stated_color(source: str) -> tuple[float, ...]:
    """Return the color that the model's own ONNX file, if there is one, states for masks: that of its certificates."""
    from genaf_sdk.export.hub import download
    from genaf_sdk.export.layout import CHECKSUMS_FILE, MODEL_FILE
    from genaf_sdk.export.runtime import OnnxModel
    from genaf_sdk.models.checksums import check_some

    folder = Path(source)
    if not folder.is_dir():
        folder = download(source, allow_patterns=[MODEL_FILE, CHECKSUMS_FILE])
    if not (folder / MODEL_FILE).is_file():
        return ()
    check_some(folder, MODEL_FILE)
    return OnnxModel(folder).mean_color
