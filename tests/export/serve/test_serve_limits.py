"""What keeps a server's memory, processes and files to itself, piece by piece, without any server."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import os
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import siege
import uvicorn
from PIL import Image
from tiny import SIZE
from tritonclient.grpc import service_pb2 as pb
from uvicorn.server import ServerState

from genaf_sdk.export.serve import logs as logs_module
from genaf_sdk.export.serve import memory as memory_module
from genaf_sdk.export.serve import pool as pool_module
from genaf_sdk.export.serve import protocol
from genaf_sdk.export.serve.__main__ import main as serve_main
from genaf_sdk.export.serve.access import Access
from genaf_sdk.export.serve.batching import Batcher
from genaf_sdk.export.serve.connections import KEEP_ALIVE, Connection, Connections
from genaf_sdk.export.serve.errors import (
    DeadlineError,
    ForbiddenError,
    InputError,
    OverloadedError,
    ProviderError,
    ServeError,
    SettingsError,
    TooLargeError,
)
from genaf_sdk.export.serve.headers import measure
from genaf_sdk.export.serve.images import decode
from genaf_sdk.export.serve.logs import Sampler, printable
from genaf_sdk.export.serve.memory import Memory
from genaf_sdk.export.serve.models import Models
from genaf_sdk.export.serve.pool import Pool
from genaf_sdk.export.serve.providers import provider_options
from genaf_sdk.export.serve.settings import Settings
from genaf_sdk.export.serve.wire import MAX_FIELDS, cut

MIB = 2**20
LOGITS = protocol.Output("logits", "FP32", "<f4", (4,))
SIGNATURE = protocol.Signature("tiny", "pixels", (3, SIZE, SIZE), uint8_input=False, max_batch=8, outputs=(LOGITS,))


# Memory.


def test_memory_is_counted_until_the_last_holder_lets_go() -> None:
    memory, freed = Memory(100), []
    memory.freed.append(lambda: freed.append(memory.held))
    first, second = memory.lease(60), memory.lease()
    with pytest.raises(OverloadedError):
        second.grow(41)
    with pytest.raises(TooLargeError, match="at most 100"):
        second.grow(101)
    second.grow(40)
    assert memory.held == 100
    first.share()
    first.release()
    assert (memory.held, freed) == (100, [])
    first.release()
    assert (memory.held, freed) == (40, [40])


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_what_large_requests_leave_goes_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[int] = []
    monkeypatch.setattr(memory_module.ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=trimmed.append))

    async def main() -> None:
        turns, waits = asyncio.Semaphore(0), asyncio.Semaphore(0)

        async def sleep(_: float) -> None:
            waits.release()
            await turns.acquire()

        async def look(times: int) -> None:
            """Let the chore look at the memory so often."""
            for _ in range(times):
                turns.release()
                await waits.acquire()

        monkeypatch.setattr(memory_module, "asyncio", SimpleNamespace(sleep=sleep, to_thread=asyncio.to_thread))
        memory = Memory(1000 * MIB)
        chore = asyncio.create_task(memory_module.give_back(memory))
        await waits.acquire()
        memory.lease(MIB).release()
        await look(9)
        assert trimmed == []
        lease = memory.lease(100 * MIB)
        await look(9)
        assert trimmed == []  # while it is held there is nothing to give
        lease.release()
        await look(9)
        assert trimmed == [0]
        chore.cancel()

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_the_allocator_has_one_pool_before_models_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pool a thread, 70 MiB of the first 48 messages of 18 MiB stayed, and more of the next."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(memory_module.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *a: asked.append(a)))
    assert serve_main([str(tmp_path / "nothing")]) == 2
    assert asked == [(-8, 1)]


def test_the_queue_holds_nothing_that_nobody_waits_for() -> None:
    """While a run blocks, four hundred requests are given up: neither they nor their pixels stay."""
    begun, go, memory = threading.Event(), threading.Event(), Memory(10**9)

    def run(pixels: np.ndarray) -> np.ndarray:
        begun.set()
        assert go.wait(20)
        return pixels

    async def main() -> None:
        options: dict[str, Any] = {"max_batch": 8, "max_delay": 0, "max_queue": 16, "observe": lambda *_: None}
        batcher = Batcher(run, lambda _: None, **options)
        pixels = np.zeros((8, 10), np.float32)

        async def submit() -> None:
            lease = memory.lease(1000)
            try:
                async with asyncio.timeout(0.001):
                    await batcher.submit(pixels, time.monotonic() + 0.001, lease)
            finally:
                lease.release()

        running = asyncio.create_task(submit())
        await asyncio.to_thread(begun.wait, 20)
        with pytest.raises(TimeoutError):
            await running
        for _ in range(400):
            with pytest.raises(TimeoutError):
                await submit()
        assert (batcher.waiting, memory.held) == (8, 1000)  # what runs, though nobody waits for it
        assert len(batcher._queue) == 0
        go.set()
        while batcher.waiting:
            await asyncio.sleep(0.01)
        assert memory.held == 0
        await asyncio.to_thread(batcher.close)

    asyncio.run(main())


# Pictures.


def encoded(kind: str, size: tuple[int, int] = (70, 50), mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], len(mode)), np.uint8)
    Image.fromarray(noise.squeeze(), mode).save(file, kind, **options)
    return file.getvalue()


PICTURES = {
    "png": encoded("PNG"),
    "gray png": encoded("PNG", mode="L"),
    "jpeg": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "with exif and profile": encoded("JPEG", exif=Image.Exif(), icc_profile=b"x" * 100_000),
    "webp": encoded("WEBP"),
    "lossless": encoded("WEBP", lossless=True),
    "with alpha": encoded("WEBP", mode="RGBA"),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("name", PICTURES)
def test_sizes_are_read_without_a_decoder(name: str) -> None:
    assert measure(PICTURES[name]) == (70, 50)
    assert decode(PICTURES[name], (3, 8, 8)).shape == (1, 8, 8, 3)


def test_what_is_no_picture_has_no_size() -> None:
    for whole in PICTURES.values():
        for end in (0, 3, 12, 20):
            assert measure(whole[:end]) is None
    assert measure(b"\xff\xd8" + b"\xff\xe0\0\2" * 100_000) is None
    assert measure(b"\xff\xd8" + b"\0" * 100_000) is None


def test_scans_of_a_jpeg_are_counted() -> None:
    decode(siege.scans_jpeg(16, side=1000), (1, 8, 8), max_pixels=1_000_000)
    with pytest.raises(TooLargeError, match=r"has 17 scans.*at most 16"):
        decode(siege.scans_jpeg(17, side=1000), (1, 8, 8), max_pixels=1_000_000)
    with pytest.raises(TooLargeError, match=r"has 101 scans.*at most 100"):
        decode(siege.scans_jpeg(101, side=500), (1, 8, 8))


def test_scans_of_a_picture_with_previews_are_counted() -> None:
    """A JPEG with the index of an MPO, as cameras write them, is one of those to Pillow."""
    camera = encoded("MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert decode(camera, (3, 8, 8)).shape == (1, 8, 8, 3)
    start = camera.index(b"\xff\xe2")
    index = camera[start : start + 2 + int.from_bytes(camera[start + 2 : start + 4], "big")]
    many = siege.scans_jpeg(101, side=500)
    with pytest.raises(TooLargeError, match=r"has 101 scans.*at most 100"):
        decode(many[:2] + index + many[2:], (1, 8, 8))


def test_a_picture_that_lies_about_its_size_is_refused() -> None:
    """A second header states more pixels than the first, which is what was counted."""
    small, large = encoded("JPEG", (16, 16)), encoded("JPEG", (900, 900))
    start = small.index(b"\xff\xc0")
    sizes = small[start : start + 2 + int.from_bytes(small[start + 2 : start + 4], "big")]
    at = large.index(b"\xff\xc0")
    with pytest.raises(InputError, match="two sizes"):
        decode(large[:at] + sizes + large[at:], (3, 8, 8))


def test_four_bands_are_for_four_channels() -> None:
    assert decode(encoded("PNG", mode="RGBA"), (4, 8, 8)).shape == (1, 8, 8, 4)
    for mode in ("RGB", "L"):
        with pytest.raises(InputError, match="four bands"):
            decode(encoded("PNG", mode=mode), (4, 8, 8))
    with pytest.raises(InputError, match="5 channels"):
        decode(encoded("PNG"), (5, 8, 8))


# Processes.


def picture_job(pixels: int = 25_000_000) -> dict[str, Any]:
    return {"job": "picture", "shape": [3, 8, 8], "pixels": pixels, "interpolation": "bilinear"}


def test_a_process_is_killed_at_the_deadline() -> None:
    async def main() -> None:
        memory = Memory(1000 * MIB)
        pool = Pool(memory, size=1)
        await pool.start()
        (worker,) = pool._idle
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await pool.run(picture_job(), siege.scans_jpeg(16), 500 * MIB)
        assert memory.held == 500 * MIB  # until it is gone
        while memory.held:
            await asyncio.sleep(0.001)
        assert worker.returncode == -9
        _, data = await pool.run(picture_job(), encoded("PNG"), 500 * MIB)
        assert len(data) == 8 * 8 * 3
        await pool.close()

    asyncio.run(main())


def test_a_job_may_not_run_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "SECONDS", 0.05)

    async def main() -> None:
        pool = Pool(Memory(1000 * MIB), size=1)
        await pool.start()
        with pytest.raises(DeadlineError, match="took more than"):
            await pool.run(picture_job(), siege.scans_jpeg(16), MIB)
        await pool.close()

    asyncio.run(main())


def test_a_process_has_no_more_memory_than_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "SECONDS", 120.0)  # it is about memory, on a machine that may be busy

    async def main() -> None:
        pool = Pool(Memory(8 * MIB), size=1)
        signature = dataclasses.asdict(SIGNATURE)
        text = b'{"inputs": [' + b"[]," * 2_500_000 + b"[]]}"  # 200 MiB of lists
        with pytest.raises(TooLargeError, match="too much memory to read"):
            await pool.run({"job": "numbers", "signature": signature}, text, MIB)
        with pytest.raises(TooLargeError, match="at most"):
            await pool.run({"job": "numbers", "signature": signature}, b"", 9 * MIB)
        await pool.close()

    asyncio.run(main())


def test_small_pictures_do_not_wait_for_large_ones() -> None:
    async def main() -> list[str]:
        pool, done = Pool(Memory(1000 * MIB), size=1), []

        async def run(name: str, content: bytes, cost: int) -> None:
            await pool.run(picture_job(), content, cost)
            done.append(name)

        large, small = encoded("PNG", (300, 300)), encoded("PNG")
        jobs = [("first", large, 300), ("large", large, 300), ("larger", large, 400), ("small", small, 1)]
        await asyncio.gather(*(run(*job) for job in jobs))
        await pool.close()
        return done

    assert asyncio.run(main()) == ["first", "small", "large", "larger"]


def test_memory_bounds_how_many_are_decoded_at_once() -> None:
    async def main() -> None:
        memory = Memory(100)
        pool, content = Pool(memory, size=4), encoded("PNG")
        held: list[int] = []

        async def run() -> None:
            await pool.run(picture_job(), content, 60)
            held.append(memory.held)

        await asyncio.gather(*(run() for _ in range(6)))
        assert max(held) <= 100
        assert memory.held == 0
        assert len(pool._idle) == 1
        await pool.close()

    asyncio.run(main())


def test_a_process_that_ends_is_told_and_replaced() -> None:
    async def main() -> None:
        pool = Pool(Memory(1000 * MIB), size=1)
        await pool.start()
        (worker,) = pool._idle
        job = asyncio.create_task(pool.run(picture_job(), siege.scans_jpeg(16), MIB))
        await asyncio.sleep(0.01)
        worker.kill()
        with pytest.raises(InputError, match="ended the process"):
            await job
        assert len((await pool.run(picture_job(), encoded("PNG"), MIB))[1]) == 8 * 8 * 3
        pool._idle[0].kill()  # between two jobs: the next one gets another
        await pool._idle[0].wait()
        assert len((await pool.run(picture_job(), encoded("PNG"), MIB))[1]) == 8 * 8 * 3
        await pool.close()

    asyncio.run(main())


def test_processes_that_do_not_start_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "CODE", "raise SystemExit(3)")
    with pytest.raises(ServeError, match="does not start"):
        asyncio.run(Pool(Memory(MIB), size=1).start())


# Numbers and messages.


def test_uneven_texts_do_not_become_an_array() -> None:
    """numpy would give each of ten thousand texts the length of the longest: a gigabyte for 60 KB."""
    values = ["x" * 30_000] + [""] * 10_000
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="type str"):
            protocol.from_values(values, SIGNATURE, 1)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("values", [[None] * 3072, [True] * 3072, [{}] * 3072, [[1, [2]]] * 1536, [[1] * 3071, 1]])
def test_values_are_numbers(values: list[Any]) -> None:
    with pytest.raises(InputError):
        protocol.from_values(values, SIGNATURE, 1)


def test_messages_are_taken_apart_as_they_were_made() -> None:
    entry = pb.ModelInferRequest.InferInputTensor(name="pixels", datatype="FP32", shape=[1, 3, 300, 2**40])
    request = pb.ModelInferRequest(model_name="tiny", id="7", inputs=[entry, entry], raw_input_contents=[b"abc", b""])
    request.parameters["timeout"].int64_param = -5
    rest, (entries, raw) = cut(memoryview(request.SerializeToString()), 5, 7)
    assert list(map(bytes, raw)) == [b"abc", b""]
    assert [pb.ModelInferRequest.InferInputTensor.FromString(bytes(each)) for each in entries] == [entry, entry]
    assert pb.ModelInferRequest.FromString(rest).parameters["timeout"].int64_param == -5


@pytest.mark.parametrize(
    "message",
    [
        b"\x32\x00" * (MAX_FIELDS + 1),
        b"\x32",
        b"\x32\xff\xff\xff\xff\x0f",
        b"\x32" + b"\xff" * 20,
        b"\x0b",
        b"\x0d\1\2",
        b"\x32\x80\x80\x04" + bytes(2**16),
    ],
)
def test_messages_that_would_grow_are_not_parsed(message: bytes) -> None:
    with pytest.raises((InputError, TooLargeError)):
        cut(memoryview(message), 5, 7)


# Who may ask.


def headers(host: str, origin: str = "") -> list[tuple[bytes, bytes]]:
    return [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])


@pytest.mark.parametrize(
    ("settings", "host", "origin", "passes"),
    [
        ({}, "localhost:8000", "", True),
        ({}, "127.0.0.1", "http://127.0.0.1", True),
        ({}, "[::1]:8000", "http://[::1]:8000", True),
        ({}, "evil.example", "", False),
        ({}, "evil.example:8000", "http://evil.example:8000", False),
        ({}, "127.0.0.1.evil.example", "", False),
        ({}, "localhost:8000", "http://evil.example", False),
        ({}, "localhost:8000", "http://localhost:3000", False),
        ({}, "localhost:8000", "null", False),
        ({"allowed_hosts": ("ai.example",)}, "ai.example", "https://ai.example", True),
        ({"allowed_hosts": ("ai.example",)}, "localhost", "https://ai.example", True),
        ({"allowed_hosts": ("ai.example",)}, "evil.example", "", False),
        ({"allowed_hosts": ("*",)}, "evil.example", "http://other.example", True),
        ({"host": "0.0.0.0", "open": True}, "anything.example", "", True),
        ({"host": "0.0.0.0", "api_key": "k"}, "anything.example", "http://evil.example", False),
    ],
)
def test_foreign_pages_are_refused(settings: dict[str, Any], host: str, origin: str, passes: bool) -> None:
    access = Access(Settings(**settings))
    for _ in range(2):  # what was looked at before is remembered
        if passes:
            access.check_origin(headers(host, origin))
        else:
            with pytest.raises(ForbiddenError):
                access.check_origin(headers(host, origin))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.0.7", "server.example"])
def test_listening_to_others_takes_a_key_or_a_word(host: str) -> None:
    with pytest.raises(SettingsError, match=r"no API key.*--open"):
        Settings(host=host)
    Settings(host=host, open=True)
    Settings(host=host, api_key="k")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_listening_to_this_machine_does_not(host: str) -> None:
    Settings(host=host)


# Connections and the end.


class Transport:
    """A connection's other end, which does not read: ``left`` bytes of its answer wait."""

    left = 0

    def get_write_buffer_size(self) -> int:
        return self.left

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, *_: object) -> None:
        return None


def test_a_connection_whose_answer_was_large_is_not_kept_for_good() -> None:
    async def nobody(scope: object, receive: object, send: object) -> None:
        """Stands for the application."""

    async def answer() -> float:
        connections = Connections(Settings())
        config = uvicorn.Config(nobody, log_config=None, ws="none")
        connection = Connection(connections, config=config, server_state=ServerState(), app_state={})
        transport = Transport()
        connection.connection_made(transport)  # type: ignore[arg-type]
        connection.pause_writing()
        transport.left = 10**6
        connection.on_response_complete()
        assert connection in connections.silent
        transport.left = 0
        connection.resume_writing()
        return connection.until - connection.loop.time()

    assert 0 < asyncio.run(answer()) <= KEEP_ALIVE


def test_many_models_end_as_soon_as_one() -> None:
    """Their graphs cannot be stopped; each is waited for within the same seconds."""
    told: list[float | None] = []

    def close(seconds: float | None) -> None:
        told.append(seconds)
        time.sleep(min(seconds or 0, 0.2))

    models = Models.__new__(Models)
    models._models = {str(place): SimpleNamespace(close=close) for place in range(5)}  # type: ignore[misc]
    began = time.monotonic()
    models.close(0.2)
    assert (len(told), time.monotonic() - began < 0.6) == (5, True)


# Lines and files.


def test_a_flood_of_lines_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(logs_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    sampler = Sampler(burst=3, seconds=10)
    assert [sampler.take() for _ in range(5)] == [0, 0, 0, None, None]
    now[0] += 9.9
    assert sampler.take() is None
    now[0] += 0.1
    assert [sampler.take() for _ in range(2)] == [3, 0]


def test_foreign_text_cannot_steer_a_terminal() -> None:
    assert printable("a\x1b]0;owned\x07\u202eb ü") == "a\\x1b]0;owned\\x07\\u202eb ü"


def test_engines_are_kept_for_one_model_and_one_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = (Path(provider_options("tensorrt", sha256=each * 64)["trt_engine_cache_path"]) for each in "ab")
    assert first != second
    assert first.stat().st_mode & 0o777 == 0o700
    assert provider_options("tensorrt", sha256="a" * 64)["trt_engine_cache_path"] == str(first)
    assert "trt_engine_cache_path" not in provider_options("tensorrt")
    first.chmod(0o750)
    with pytest.raises(ProviderError, match="open to others"):
        provider_options("tensorrt", sha256="a" * 64)
    first.rmdir()
    first.symlink_to(second)
    with pytest.raises(ProviderError, match="open to others"):
        provider_options("tensorrt", sha256="a" * 64)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ProviderError, match="open to others"):
        provider_options("tensorrt", sha256="b" * 64)
