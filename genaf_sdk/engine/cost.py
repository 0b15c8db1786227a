"""What a run costs: time, peak memory, and energy where the machine lets it be read."""

from __future__ import annotations

import platform
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

POWERCAP = Path("/sys/class/powercap")
SAMPLE_SECONDS = 30.0
"""How often the counters are read: a counter of a package that draws 300 W wraps around after a quarter of an hour."""


WENT_ON = "the run was stopped and resumed, and what it had taken before is not known"


@dataclass(frozen=True)
class Spent:
    """Time that something took.

    Args:
        seconds: On the wall.
        cpu_seconds: Of processors, over all threads of this process.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @classmethod
    def until_now(cls) -> Self:
        """Return the time since moments that never change while a process runs; differences count."""
        return cls(time.monotonic(), time.process_time())

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.seconds - other.seconds, self.cpu_seconds - other.cpu_seconds)


class Counter(Protocol):
    """A counter of energy that only rises, but for wrapping around."""

    def joules(self) -> float:
        """Return the energy since the previous call, or since the counter was made."""


@dataclass
class Rapl:
    """The energy counter of one CPU package: microjoules in a file that wraps around (Linux powercap, RAPL)."""

    folder: Path

    def __post_init__(self) -> None:
        self.range = int((self.folder / "max_energy_range_uj").read_text())
        self.last = self._read()

    def joules(self) -> float:
        """Return the energy of the whole package since the previous call."""
        now = self._read()
        spent, self.last = (now - self.last) % (self.range + 1), now
        return spent / 1e6

    def _read(self) -> int:
        return int((self.folder / "energy_uj").read_text())


class Nvml:
    """The energy counter of one NVIDIA GPU: millijoules since the driver was loaded (NVML, Volta and later)."""

    def __init__(self, index: int) -> None:
        import pynvml

        pynvml.nvmlInit()
        self.nvml = pynvml
        uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
        self.handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        self.last = self._read()

    def joules(self) -> float:
        """Return the energy of the whole GPU since the previous call."""
        now = self._read()
        spent, self.last = now - self.last, now
        return spent / 1e3

    def _read(self) -> int:
        return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))


def cpu_counters(powercap: Path = POWERCAP) -> tuple[list[Counter], str]:
    """Return a counter for each CPU package, or none and the reason."""
    try:
        domains = [folder for folder in sorted(powercap.glob("intel-rapl:*")) if folder.name.count(":") == 1]
        packages = [folder for folder in domains if (folder / "name").read_text().startswith("package")]
        counters: list[Counter] = [Rapl(folder) for folder in packages]
    except PermissionError as error:
        return [], f"{error.filename} may not be read by this user"
    except (OSError, ValueError) as error:
        return [], f"the counters under {powercap} cannot be read: {error}"
    return counters, "" if counters else f"this machine shows no energy counter (RAPL) under {powercap}"


def gpu_counters() -> tuple[list[Counter], str]:
    """Return a counter for each GPU that torch sees, or none and the reason."""
    if not torch.cuda.is_available():
        return [], "no NVIDIA GPU was used"
    try:
        return [Nvml(index) for index in range(torch.cuda.device_count())], ""
    except ImportError:
        return [], "the package nvidia-ml-py is not installed"
    except Exception as error:  # the driver's own class; a run is not lost for want of its energy
        return [], f"the driver does not tell: {error}"


@dataclass
class _Energy:
    counters: list[Counter]
    reason: str
    joules: float = 0.0

    def sample(self) -> None:
        for counter in self.counters:
            try:
                self.joules += counter.joules()
            except Exception as error:  # a counter that goes away makes the figure unknown, not the run fail
                self.counters, self.reason = [], f"a counter could not be read any more: {error}"
                return

    def summary(self) -> dict[str, Any]:
        return {"joules": round(self.joules, 1)} if self.counters else {"joules": None, "reason": self.reason}


@dataclass
class CostMeter:
    """Measures what passes between entering and ``read``: peak memory and energy.

    Energy is that of whole CPU packages and GPUs, whatever else ran on them.
    """

    energy: dict[str, _Energy] = field(default_factory=dict, init=False)

    def __enter__(self) -> CostMeter:
        self.energy = {"cpu": _Energy(*cpu_counters()), "gpu": _Energy(*gpu_counters())}
        for index in _used_gpus():
            torch.cuda.reset_peak_memory_stats(index)
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="genaf-energy", daemon=True)
        if any(part.counters for part in self.energy.values()):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def read(self, *, went_on: bool = False) -> dict[str, Any]:
        """Return peak memory in bytes and energy in joules so far; what cannot be read is None, with the reason.

        Args:
            went_on: Whether another process began the run, so that nobody knows the energy of all of it.
        """
        self._sample()
        gpus = [
            {"name": torch.cuda.get_device_name(index), "peak_memory": torch.cuda.max_memory_allocated(index)}
            for index in _used_gpus()
        ]
        unknown = {"joules": None, "reason": WENT_ON} if went_on else None
        energy = {part: unknown or measured.summary() for part, measured in self.energy.items()}
        return {"peak_memory": peak_memory(), "gpus": gpus, "energy": energy}

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            for part in self.energy.values():
                part.sample()


def _used_gpus() -> range:
    """Return the numbers of the GPUs that torch has in use: until then it knows of no memory of theirs, and says so."""
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


def processor(device: torch.device) -> str:
    """Return what computes on a device, as times depend on it: a GPU's name, or architecture and vector units."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    units = device.type.upper() if device.type != "cpu" else torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {units}"


def peak_memory() -> int | None:
    """Return the most main memory that this process has had since it started, in bytes; None where that is unknown."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
