"""Which execution provider really runs a model: what was loaded counts, not what was asked for."""

from __future__ import annotations

import contextlib
import io
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnxruntime

from .errors import ProviderError

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
PACKAGES = ("onnxruntime", "onnxruntime-gpu")
REMEDIES = {
    "tensorrt": 'pip install "onnxruntime-gpu[cuda,cudnn]" "tensorrt-cu13>=10.13,<11", and check nvidia-smi',
    "cuda": 'pip install "onnxruntime-gpu[cuda,cudnn]" (both extras), and check nvidia-smi',
    "cpu": "pip install onnxruntime",
}


def require_one_onnxruntime() -> None:
    """Refuse to go on with two onnxruntime packages: they overwrite one another's files.

    Raises:
        ProviderError: More than one is installed.
    """
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if len(found) > 1:
        raise ProviderError(
            f"{' and '.join(found)} are both installed and overwrite one another's files.",
            expected="one of them",
            remedy="pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu "
            "(or onnxruntime, for the CPU alone)",
        )


def open_session(
    path: Path,
    *,
    provider: str = "auto",
    threads: int | None = None,
    spinning: bool = False,
    max_batch: int = 32,
    input_shape: tuple[int, ...] = (),
) -> tuple[onnxruntime.InferenceSession, str]:
    """Make a session and return it with the name of the provider that runs it.

    Args:
        path: ONNX file.
        provider: ``tensorrt``, ``cuda``, ``cpu``, or ``auto``: the first of these that loads.
        threads: Threads of one operator on the CPU; None is onnxruntime's own choice, one a core.
        spinning: Whether idle threads wait actively. That takes cores from whatever else runs, this server included.
        max_batch: Largest batch that a TensorRT engine is built for.
        input_shape: Shape of one image, for the same; empty where the graph leaves it open.

    Raises:
        ProviderError: The provider is unknown or cannot be loaded, or onnxruntime refuses the file.
    """
    if provider not in ("auto", *PROVIDERS):
        raise ProviderError(f"There is no provider {provider!r}.", expected=f"auto, {', '.join(PROVIDERS)}")
    require_one_onnxruntime()
    available = [name for name, full in PROVIDERS.items() if full in onnxruntime.get_available_providers()]
    if provider not in ("auto", *available):
        raise ProviderError(
            f"The installed onnxruntime {onnxruntime.__version__} has no provider {provider!r}.",
            expected=f"one of {', '.join(available)}",
            remedy=REMEDIES[provider],
        )
    # Nodes that a provider does not know are left to those after it.
    wanted = available if provider == "auto" else available[available.index(provider) :]
    report = _preload() if wanted != ["cpu"] else ""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what does not load is said below, once and with the mend
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    session = _first_session(path, options, wanted, retry=provider == "auto", sizes=(max_batch, *input_shape))
    loaded = session.get_providers()[0]
    name = next(name for name, full in PROVIDERS.items() if full == loaded)
    if provider not in ("auto", name):
        raise ProviderError(
            f"The provider {provider!r} was asked for, but what loaded is {name!r}. {report}".rstrip(),
            expected=f"a machine and packages that {provider!r} runs on",
            remedy=f"{REMEDIES[provider]}; or ask for 'auto' or {name!r}",
        )
    return session, name


def provider_options(name: str, largest: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return the options that a provider is started with; ``largest`` is the shape of the largest batch."""
    if name == "cuda":
        # An exhaustive search would be repeated at every new batch size.
        return {"cudnn_conv_algo_search": "HEURISTIC"}
    if name != "tensorrt":
        return {}
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "serve" / "tensorrt"
    options: dict[str, Any] = {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(cache),
        "trt_fp16_enable": False,  # a half-precision model is a file of its own, whose robustness was measured
    }
    if len(largest) == 4:
        low, high = ("x".join(map(str, shape)) for shape in ((1, *largest[1:]), largest))
        options |= {
            "trt_profile_min_shapes": f"pixels:{low}",
            "trt_profile_opt_shapes": f"pixels:{high}",
            "trt_profile_max_shapes": f"pixels:{high}",
        }
    return options


def _first_session(
    path: Path,
    options: onnxruntime.SessionOptions,
    wanted: list[str],
    *,
    retry: bool,
    sizes: tuple[int, ...],
) -> onnxruntime.InferenceSession:
    """Make the session on ``wanted``; if the first of them fails with an error and ``retry`` says so, on the rest."""
    onnxruntime.set_default_logger_severity(4)  # likewise: the failure is in the exception
    try:
        # onnxruntime's own fallback would print and go on, and a caller could not tell.
        return onnxruntime.InferenceSession(
            str(path),
            options,
            providers=[(PROVIDERS[name], provider_options(name, sizes)) for name in wanted],
            enable_fallback=0,
        )
    except Exception as error:  # onnxruntime's own classes share no public base
        if retry and len(wanted) > 1:
            return _first_session(path, options, wanted[1:], retry=retry, sizes=sizes)
        mend = "check that the file is whole and made for this version of onnxruntime"
        raise ProviderError(
            f"onnxruntime {onnxruntime.__version__} cannot run {path} on {wanted[0]!r}: {' '.join(str(error).split())}",
            remedy=mend if wanted == ["cpu"] else f"{REMEDIES[wanted[0]]}; or ask for 'auto'",
        ) from error
    finally:
        onnxruntime.set_default_logger_severity(2)


def _preload() -> str:
    """Load CUDA's and cuDNN's libraries from their wheels; what failed is returned, as the call prints and goes on."""
    if not hasattr(onnxruntime, "preload_dlls"):
        return ""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        onnxruntime.preload_dlls()
    return " ".join(said.getvalue().split())[:600]
