"""The page over the bundle in the current folder: `python -B -m serve.space`."""

from pathlib import Path

from .app import launch

launch(Path())
