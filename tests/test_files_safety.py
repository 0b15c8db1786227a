"""What happens to files when others write in the same folder, processes are killed, and disks are full."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from genaf_sdk.engine.checkpoints import Checkpoint, Checkpoints
from genaf_sdk.errors import OutputError
from genaf_sdk.export.serve.errors import BundleError
from genaf_sdk.export.serve.files import parse_json
from genaf_sdk.files import output_errors, read_json, replacing, write_json
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.locks import LOCK_FILE, locked_folder

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and links of POSIX")


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    given = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(given, capture_output=True, text=True, check=False, timeout=120)


def test_no_temporary_name_can_be_guessed(tmp_path: Path) -> None:
    names = set()
    for _ in range(2):
        with replacing(tmp_path / "report.json") as temporary:
            temporary.write_text("{}")
            names.add(temporary.name)
    assert len(names) == 2
    assert not any(str(os.getpid()) == name.split(".")[-2] for name in names)


@posix
def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".report.json.{os.getpid()}.partial").symlink_to(victim)
    write_json(tmp_path / "report.json", {"a": 1})
    assert victim.read_text() == "precious"
    assert not (tmp_path / "report.json").is_symlink()


@posix
def test_a_link_put_in_the_place_of_the_temporary_file_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")

    def swapped() -> None:
        with replacing(tmp_path / "report.json") as temporary:
            temporary.unlink()
            temporary.symlink_to(victim)

    with pytest.raises(OutputError, match="cannot be written"):
        swapped()
    assert not (tmp_path / "report.json").is_symlink()
    assert victim.exists()


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "report.json"
    path.touch()
    path.chmod(mode)
    with replacing(path) as temporary:
        assert not stat.S_IMODE(temporary.stat().st_mode) & 0o077, "nobody else reads it before it is whole"
        temporary.write_text("{}")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_a_new_file_gets_what_the_umask_leaves_whatever_its_writer_does(tmp_path: Path) -> None:
    program = """
import os, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from genaf_sdk.files import replacing
os.umask(0o027)
with replacing(Path(sys.argv[1])) as temporary:
    save_file({"x": torch.zeros(1)}, temporary)
    temporary.chmod(0o600)
"""
    path = tmp_path / "x.safetensors"
    assert run(program, path).returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@posix
def test_the_umask_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(mask: int) -> int:
        raise AssertionError(f"umask({mask})")

    monkeypatch.setattr(os, "umask", touched)
    write_json(tmp_path / "report.json", {})


def test_the_folder_is_flushed_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    real = os.fsync

    def record(descriptor: int) -> None:
        flushed.append((os.fstat(descriptor).st_ino, (tmp_path / "report.json").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_json(tmp_path / "report.json", {})
    assert flushed[-1] == (tmp_path.stat().st_ino, True) or sys.platform == "win32"
    assert flushed[0] == ((tmp_path / "report.json").stat().st_ino, False)


@posix
def test_what_a_killed_process_left_is_tidied_and_what_a_living_one_holds_is_not(tmp_path: Path) -> None:
    path = tmp_path / "big [1].bin"
    killed = """
import os, signal, sys
from pathlib import Path
from genaf_sdk.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(killed, path).returncode == -9
    (left,) = tmp_path.iterdir()
    older = tmp_path / ".big [1].bin.12345.partial"
    older.write_bytes(b"of an earlier version")
    own = tmp_path / ".big [1].bin.my notes.partial"
    own.write_bytes(b"the user's")
    with replacing(path) as first:
        first.write_bytes(b"first")
        with replacing(path) as second:
            assert first.exists(), "a living process writes there"
            second.write_bytes(b"second")
        assert not left.exists()
        assert not older.exists()
    assert path.read_bytes() == b"first"
    assert sorted(tmp_path.iterdir()) == sorted([own, path])


def test_a_full_disk_is_an_error_of_ours_for_tensors_too(tmp_path: Path) -> None:
    program = """
import resource, signal, sys, torch
from pathlib import Path
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    Perturbation(torch.zeros(3, 64, 64), 8 / 255).save(sys.argv[1])
except OutputError as error:
    print(error)
"""
    done = run(program, tmp_path / "delta.safetensors")
    assert "cannot be written" in done.stdout, done.stderr
    assert "free space" in done.stdout
    assert not list(tmp_path.iterdir())


def test_errors_of_the_system_become_ours(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"model\.fp16\.onnx cannot be written"),
        output_errors(tmp_path / "model.fp16.onnx"),
    ):
        (tmp_path / "nowhere" / "x").write_text("x")


def test_a_perturbation_is_written_as_before(tmp_path: Path) -> None:
    Perturbation(torch.ones(3, 4, 4) / 255, 1 / 255).save(tmp_path / "new" / "delta.safetensors")
    assert Perturbation.load(tmp_path / "new" / "delta.safetensors").values.max() == 1 / 255


def test_a_second_run_is_kept_out_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    second = """
import sys
from pathlib import Path
from genaf_sdk.errors import OutputError
from genaf_sdk.locks import locked_folder
try:
    with locked_folder(Path(sys.argv[1])):
        print("in")
except OutputError as error:
    print(error)
"""
    with locked_folder(folder):
        said = run(second, folder).stdout
        assert f"in use by process {os.getpid()}" in said
        assert "choose another output_dir" in said
        with pytest.raises(OutputError, match="in use"), locked_folder(folder):
            pass
        with locked_folder(tmp_path / "another"):
            pass
    assert run(second, folder).stdout == "in\n"
    assert not list(folder.iterdir()), "a bundle holds no lock file"


@posix
def test_a_killed_run_holds_no_folder(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from genaf_sdk.locks import locked_folder
with locked_folder(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(program, tmp_path).returncode == -9
    assert (tmp_path / LOCK_FILE).exists()
    with locked_folder(tmp_path):
        pass


@posix
def test_a_killed_run_holds_no_folder_though_a_process_that_it_forked_lives_on(tmp_path: Path) -> None:
    """As those that read images ahead do for some seconds; such a process ends the lock of its parent neither."""
    program = """
import os, signal, sys, time
from pathlib import Path
from genaf_sdk.locks import LOCK_FILE, locked_folder
folder = Path(sys.argv[1])
ended, end = os.pipe()
with locked_folder(folder):
    child = os.fork()
    if child == 0:
        os.close(end)
        os.close(1)
        os.read(ended, 1)  # until the test has looked, or ends
        os._exit(0)
    other = os.fork()
    if other:
        os.waitpid(other, 0)
        print((folder / LOCK_FILE).exists(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""
    read, write = os.pipe()
    program = program.replace("ended, end = os.pipe()", f"ended, end = {read}, {write}")
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False,
            pass_fds=(read, write), timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (-9, "True\n")
        with locked_folder(tmp_path):
            pass
    finally:
        os.close(write)
        os.close(read)


def test_a_lock_lets_through_what_the_run_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked_folder(tmp_path):
        raise FileNotFoundError("of the run's own")
    with locked_folder(tmp_path):
        pass


@posix
def test_no_two_threads_are_inside_at_once(tmp_path: Path) -> None:
    inside, most, entered = [], [], []

    def enter() -> None:
        for _ in range(200):
            try:
                with locked_folder(tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    entered.append(1)
                    inside.pop()
            except OutputError:
                continue

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert entered


def test_odd_names_beside_checkpoints_are_harmless(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)

    def save(step: int) -> None:
        checkpoints.save("stage 1", Checkpoint(step, {"x": torch.zeros(1)}, {}))

    save(1)
    save(2)
    stage = tmp_path / "stage-1"
    for odd in ("00000002 (copy)", "9 my own notes", "00000009.old"):
        (stage / odd).mkdir()
    save(3)
    found = checkpoints.latest("stage 1")
    assert found is not None
    assert found.step == 3
    names = {path.name for path in stage.iterdir()}
    assert names == {"00000002", "00000003", "00000002 (copy)", "9 my own notes", "00000009.old"}


@posix
def test_a_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_json(tmp_path / "link" / "report.json", {})
    assert (tmp_path / "real" / "report.json").is_file()
    with locked_folder(tmp_path / "link"), pytest.raises(OutputError), locked_folder(tmp_path / "real"):
        pass


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]'])
def test_json_says_everything_once(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(OutputError, match="two values of one name"):
        read_json(tmp_path / "report.json")
    with pytest.raises(BundleError, match="two values of one name"):
        parse_json(tmp_path / "report.json", text.encode())


def test_a_name_that_is_no_utf_8_can_be_written_and_read(tmp_path: Path) -> None:
    write_json(tmp_path / "names.json", ["caf\udce9", "café"])
    assert read_json(tmp_path / "names.json") == ["caf\udce9", "café"]
    assert "café" in (tmp_path / "names.json").read_text("utf-8")
