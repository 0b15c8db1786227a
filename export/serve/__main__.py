"""``python -m serve``: serve the bundle that this folder lies in, or those that are named."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .classifier import OnnxClassifier, load_bundle
from .errors import ServeError, SettingsError
from .logs import log, start_logging
from .providers import TF32_VARIABLE
from .server import run
from .settings import Settings

KEY_VARIABLE = "SERVE_API_KEY"
OWN_BUNDLE = Path(__file__).resolve().parent.parent
"""The bundle that this code was delivered with."""


def main(arguments: list[str] | None = None, *, program: str = "python -m serve", bundle: Path | None = OWN_BUNDLE) -> int:
    """Serve ``bundle`` if no other is named; return the exit status."""
    options = _parser(program, bundle).parse_args(arguments)
    start_logging(options.log_level)
    os.environ.setdefault(TF32_VARIABLE, "0")
    try:
        settings = _settings(options)
        classifiers = _load(options)
        run(classifiers, settings)
    except ServeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser(program: str, bundle: Path | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Serve image classifiers by the Open Inference Protocol v2, over HTTP and gRPC.",
        epilog=f"An API key is read from the environment variable {KEY_VARIABLE} or from --api-key-file.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = Settings()
    add = parser.add_argument
    add(
        "bundles",
        nargs="+" if bundle is None else "*",
        metavar="[NAME=]BUNDLE",
        default=None if bundle is None else [str(bundle)],
        help="folders or .onnx files",
    )
    add("--precision", default="fp32", help="which of a bundle's models: fp32, fp16, ...")
    add("--provider", default="auto", choices=("auto", "tensorrt", "cuda", "cpu"))
    add("--threads", type=int, default=None, help="threads of one operator on the CPU; one a core if not given")
    add("--spinning", action="store_true", help="let idle threads of a CPU model wait actively")
    add("--host", default=default.host, help="0.0.0.0 listens on every interface")
    add("--http-port", type=int, default=default.http_port, help="0 takes a free one")
    add("--grpc-port", type=int, default=default.grpc_port, help="0 takes a free one, -1 serves no gRPC")
    add("--max-batch", type=int, default=default.max_batch, help="images")
    add("--max-delay", type=float, default=default.max_delay, help="seconds that a batch waits to fill up")
    add("--max-queue", type=int, default=default.max_queue, help="images")
    add("--max-body", type=int, default=default.max_body, help="bytes")
    add("--max-memory", type=int, default=default.max_memory, help="bytes of all bodies together")
    add("--max-connections", type=int, default=default.max_connections)
    add("--max-pixels", type=int, default=default.max_pixels, help="width times height of an image file")
    add("--timeout", type=float, default=default.timeout, help="seconds")
    add("--drain", type=float, default=default.drain, help="seconds of answering while not ready, before the stop")
    add("--api-key-file", type=Path, default=None)
    add("--tls-certificate", type=Path, default=None)
    add("--tls-key", type=Path, default=None)
    add("--log-requests", action="store_true", help="log every request, not only failed ones")
    add("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    names = set(Settings.__dataclass_fields__) - {"api_key", "grpc_port"}
    values = {name: getattr(options, name) for name in names}
    key = os.environ.get(KEY_VARIABLE, "")
    if options.api_key_file is not None:
        try:
            key = options.api_key_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"The API key's file cannot be read: {error}.") from error
        if not key:
            raise SettingsError(f"{options.api_key_file} is empty.", expected="an API key")
    return Settings(**values, api_key=key, grpc_port=None if options.grpc_port == -1 else options.grpc_port)


def _load(options: argparse.Namespace) -> dict[str, OnnxClassifier]:
    classifiers: dict[str, OnnxClassifier] = {}
    for entry in options.bundles:
        name, separator, path = entry.partition("=")
        if not separator:
            name, path = Path(entry).resolve().name.removesuffix(".onnx"), entry
        if name in classifiers or not name or "/" in name:
            raise SettingsError(f"The model name {name!r} is taken, empty or has a slash.", remedy="give NAME=BUNDLE")
        log("loading", {"model": name, "path": path})
        classifier = load_bundle(
            path,
            precision=options.precision,
            provider=options.provider,
            threads=options.threads,
            spinning=options.spinning,
            max_batch=options.max_batch,
        )
        log("loaded", {"model": name, "provider": classifier.provider, "classes": len(classifier.class_names)})
        classifiers[name] = classifier
    return classifiers


if __name__ == "__main__":
    sys.exit(main())
