"""An accelerator in main memory, on which tests see what only a GPU would show: tensors that are on two devices."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import torch

COMPILER = shutil.which("c++")
SOURCE = Path(__file__).with_name("device.cpp")
WRITTEN_FOR = (2, 14)
"""The version of torch of whose inner parts it is made; what is later may have changed them."""
VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])


def is_possible() -> bool:
    """Return whether there is what compiles the device here."""
    return COMPILER is not None and os.name == "posix" and VERSION >= WRITTEN_FOR


def compiled(folder: Path) -> Path:
    """Compile the device, half a minute, into ``folder``; return the library.

    Raises:
        RuntimeError: The compiler refuses it.
    """
    library = folder / "emulated.so"
    headers = Path(torch.__file__).parent / "include"
    includes = [f"-isystem{headers}", f"-isystem{headers / 'torch' / 'csrc' / 'api' / 'include'}"]
    links = [f"-L{headers.parent / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]
    command = [str(COMPILER), "-std=c++20", "-O0", "-fPIC", "-shared", *includes, str(SOURCE), *links]
    done = subprocess.run([*command, "-o", str(library)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return library


class Module:
    """What torch looks for under ``torch.emulated``."""

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Random numbers are the processor's, which has the seed already."""

    def get_rng_state(self, device: int = 0) -> torch.Tensor:
        del device
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: int = 0) -> None:
        """Nor has it a state of its own."""


def load(library: Path) -> None:
    """Make the device, ``emulated:0``, known to torch in this process, which it stays."""
    torch.ops.load_library(str(library))
    torch.utils.rename_privateuse1_backend("emulated")
    torch._register_device_module("emulated", Module())  # type: ignore[arg-type]
    torch.utils.generate_methods_for_privateuse1_backend()
