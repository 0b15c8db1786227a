"""Protocol buffers taken apart before they are parsed: two bytes of a message can become fifty of an object."""

from __future__ import annotations

from .errors import InputError, TooLargeError

MAX_FIELDS = 256
MAX_REST = 2**16
"""Bytes beside a tensor."""
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5
_FIXED = {_DOUBLE: 8, _FLOAT: 4}


def cut(message: memoryview, *fields: int) -> tuple[bytes, list[list[memoryview]]]:
    """Return a message without some of its length-delimited fields, and the contents of each of them, in order.

    Args:
        message: The message's bytes; what is cut out shares their memory.
        fields: Numbers of the fields.

    Raises:
        InputError: It is no such message, or has more than ``MAX_FIELDS`` fields.
        TooLargeError: What is left has more than ``MAX_REST`` bytes.
    """
    rest: list[memoryview] = []
    parts: list[list[memoryview]] = [[] for _ in fields]
    at, end, size = 0, len(message), 0
    for _ in range(MAX_FIELDS):
        if at == end:
            return b"".join(rest), parts
        tag, begin = message[at], at + 1
        if tag >= 0x80:
            tag, begin = _varint(message, at)
        kind, field = tag & 7, tag >> 3
        if kind == _VARINT:
            after = _varint(message, begin)[1]
        elif kind == _BYTES:
            length, begin = _varint(message, begin)
            after = begin + length
        elif kind in _FIXED:
            after = begin + _FIXED[kind]
        else:
            raise _damaged()
        if after > end:
            raise _damaged()
        if kind == _BYTES and field in fields:
            parts[fields.index(field)].append(message[begin:after])
        else:
            size += after - at
            if size > MAX_REST:
                raise TooLargeError(
                    f"The message has more than {MAX_REST} bytes beside its tensor.", expected="a tensor, described"
                )
            rest.append(message[at:after])
        at = after
    raise InputError(f"The message has more than {MAX_FIELDS} fields.", expected="one tensor and its description")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number of variable length and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            break
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise _damaged()


def _damaged() -> InputError:
    return InputError("The message is damaged.", expected="a ModelInferRequest")
