"""Encoders: an id, a path or a module in, a function of pixels in [0, 1] out. ``grammar`` says which ids there are."""

from genaf_sdk.encoders.grammar import SOURCES, build_backbone, known_encoders, load_encoder, own_source
from genaf_sdk.encoders.source import EncoderOptions, KnownEncoder, Source

__all__ = [
    "SOURCES",
    "EncoderOptions",
    "KnownEncoder",
    "Source",
    "build_backbone",
    "known_encoders",
    "load_encoder",
    "own_source",
]
