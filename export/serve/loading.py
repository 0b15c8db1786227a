"""What a server process does with its command line: load the bundles, serve them. Other processes import it, too."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .classifier import OnnxClassifier, load_bundle
from .errors import ServeError, SettingsError
from .logs import log, printable, start_logging
from .memory import use_one_pool
from .server import run

if TYPE_CHECKING:
    import argparse

    from .settings import Settings

UNUSABLE = 2
"""Exit status where something given cannot be used, as argparse's own."""


def work(options: argparse.Namespace, settings: Settings) -> int:
    """Serve as one process of several, with its share of the threads; return the exit status."""
    start_logging(options.log_level)
    use_one_pool()
    options.threads = options.threads or max(1, (os.cpu_count() or 1) // options.workers)
    try:
        run(load(options), settings)
    except ServeError as error:
        sys.stderr.write(f"{printable(str(error))}\n")
        return UNUSABLE
    return 0


def load(options: argparse.Namespace) -> dict[str, OnnxClassifier]:
    """Return the classifiers that the command line names, by the names that they are served under.

    Raises:
        ServeError: A name is taken, or a bundle cannot be used.
    """
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
            signed_by=options.signed_by,
            provider=options.provider,
            threads=options.threads,
            spinning=options.spinning,
            max_batch=options.max_batch,
            certify=options.certify,
            masks=options.certify_masks,
            fill=options.certify_fill,
        )
        loaded = {"model": name, "provider": classifier.provider, "classes": len(classifier.class_names)}
        log("loaded", loaded | ({"signed_by": classifier.bundle.signed_by} if options.signed_by else {}))
        classifiers[name] = classifier
    return classifiers
