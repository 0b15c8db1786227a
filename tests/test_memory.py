from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

from genaf_sdk.memory import reused_memory

PIECES = """
import ctypes, json, resource
import psutil
from genaf_sdk.memory import reused_memory

SIZE, COUNT = 16 * 2**20, 8
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def faults():
    "Pages that the kernel cleared for a step that needs 128 MiB and frees them, after steps that did the same."
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        pieces = [libc.malloc(SIZE) for _ in range(COUNT)]
        for piece in pieces:
            ctypes.memset(piece, 1, SIZE)
        for piece in pieces:
            libc.free(piece)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return psutil.Process().memory_info().rss

outside, before = faults(), resident()
with reused_memory():
    inside, kept = faults(), resident()
print(json.dumps({"outside": outside, "inside": inside, "kept": kept - before, "left": resident() - before,
                  "afterwards": faults()}))
"""
MIB = 2**20


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="the C library is not glibc",
)
def test_what_a_step_frees_is_there_for_the_next_and_is_given_back_at_the_end() -> None:
    command = [sys.executable, "-c", PIECES]  # a process of its own: what lies in memory decides what is given back
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["outside"] >= 64  # of 2 MiB each, where pages are that large; else 32768
    assert found["inside"] < found["outside"] / 10
    assert 100 * MIB < found["kept"] < 200 * MIB
    assert found["left"] < 16 * MIB
    assert found["afterwards"] >= 64


def test_with_another_c_library_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # a library without mallopt
    with reused_memory():
        pass
