"""Width and height of an image file from its first bytes, without a decoder: what decoding it will cost."""

from __future__ import annotations

MAX_SEGMENTS = 10_000
"""Of a JPEG before its size; a photograph has some dozens."""
_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""The markers of a JPEG that state its size."""


def measure(data: bytes | memoryview) -> tuple[int, int] | None:
    """Return (width, height) as a PNG, JPEG or WEBP file states it; None where it is no such file.

    A file can lie here: whoever decodes it has to compare.
    """
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return _png(data)
        if data[:2] == b"\xff\xd8":
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except IndexError:  # it ends early
        pass
    return None


def _png(data: bytes | memoryview) -> tuple[int, int] | None:
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _jpeg(data: bytes | memoryview) -> tuple[int, int] | None:
    at = 2
    for _ in range(MAX_SEGMENTS):
        if data[at] != 0xFF:
            at += 1  # decoders skip garbage between segments
            continue
        marker = data[at + 1]
        if marker in _SIZES:
            if len(data) < at + 9:
                return None
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if marker in (0xD9, 0xDA):
            return None
        if marker == 0xFF:  # padding
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # markers without a segment
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _webp(data: bytes | memoryview) -> tuple[int, int] | None:
    kind = data[12:16]
    if len(data) < 30:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None
