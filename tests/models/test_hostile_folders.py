"""Folders of models that are damaged or hostile: success or an error of this package, and nothing else happens.

No file outside of the folder is opened for writing, the network is not asked, no process is started. The quick run
tries a few dozen folders, the slow one as many as ``GENAF_FUZZ`` says (600 by default).
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genaf_sdk.encoders import load_encoder
from genaf_sdk.errors import GenafError
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.models.heads import build_head
from genaf_sdk.models.storage import CONFIG_FILE, WEIGHTS_FILE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="makes pipes and links")
MANY = int(os.environ.get("GENAF_FUZZ", "600"))
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 10**30, 1e308, 0.5, "", "x", "x" * 10_000, "\x1b[2J", "\u202e", "[/red]"),
    *([], [0], [1, 2, 3], [[1]], [None], {}, {"a": 1}, {"name": "mlp"}, [10**9, 10**9], "../x", "/etc/passwd"),
)
PREFIXES = ("timm/", "timm:", "torchvision:", "hf-hub:", "solo-learn:", "checkpoint:", "bundled:", "ours:", "", "hub:")
NAMES = (
    *("test_resnet", "test_vit", "resnet18", "squeezenet1_1", "resnet18-cifar", "simclr-cifar10", "o/n", "../x"),
    *("vit_tiny:patch_size=1,image_size=8192x8192", "vit_tiny:patch_size=16,heads=3,image_size=32x32", "/etc/passwd"),
    *("test_resnet:random,channels=65536", "test_vit:image_size=99999x99999", "local-dir:/tmp", "~/x", "☃", "x.pt"),
    "x" * 10_000,
)
KEYS = (
    *("img_size", "in_chans", "layers", "depth", "embed_dim", "global_pool", "act_layer", "checkpoint_path"),
    *("pretrained", "pretrained_cfg", "cache_dir", "model_type", "hidden_size", "num_hidden_layers", "backbone"),
    *("attn_implementation", "auto_map", "trust_remote_code", "quantization_config", "image_size", "patch_size"),
    *("_commit_hash", "dtype"),
)
TYPES = ("vit", "clip", "resnet", "upernet", "timm_wrapper", "gpt2", "dinov2", "x", None)


def foreign_id(choose: random.Random) -> str:
    """An id of an encoder, from plausible to absurd."""
    if choose.random() < 0.5:
        return choose.choice(PREFIXES) * choose.choice((1, 1, 1, 50)) + choose.choice(NAMES)
    settings = {choose.choice(KEYS): choose.choice(VALUES) for _ in range(choose.randint(0, 3))}
    library = choose.choice(("timm", "transformers", "other", None, 3))
    description = {"library": library, "name": choose.choice(NAMES), "arguments": settings, "features": "pooler_output"}
    description["config"] = {"model_type": choose.choice(TYPES), **settings}
    return "hf-hub:o/n:" + json.dumps(description)


def change_config(folder: Path, choose: random.Random) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    for _ in range(choose.randint(1, 2)):
        key = choose.choice([*config, "new"])
        if key == "encoder" or choose.random() < 0.4:
            config["encoder"] = foreign_id(choose)
        elif choose.random() < 0.1:
            config.pop(key, None)
        elif key == "head" and isinstance(config.get("head"), dict):
            config["head"][choose.choice((*config["head"], "dropout", "scale", "device"))] = choose.choice(VALUES)
        else:
            config[key] = choose.choice(VALUES)
    text = json.dumps(config)
    (folder / CONFIG_FILE).write_text(text.replace("Infinity", "1e999"))


def change_bytes(folder: Path, choose: random.Random) -> None:
    path = folder / choose.choice((CONFIG_FILE, WEIGHTS_FILE))
    content = bytearray(path.read_bytes())
    place = choose.randrange(len(content))
    kind = choose.choice(("cut", "flip", "length", "empty", "nested"))
    if kind == "cut":
        content = content[:place]
    elif kind == "flip":
        content[place] ^= 1 << choose.randrange(8)
    elif kind == "length":
        content[:8] = struct.pack("<Q", choose.choice((0, 1, 2**31, 2**63, 2**64 - 1)))
    elif kind == "empty":
        content = bytearray()
    else:
        content = bytearray(b"[" * 50_000)
    path.write_bytes(bytes(content))


def change_weights(folder: Path, choose: random.Random) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    name = choose.choice(sorted(weights))
    kind = choose.choice(("drop", "shape", "type", "extra", "nan", "rename"))
    value = weights[name]
    if kind == "drop":
        del weights[name]
    elif kind == "shape":
        weights[name] = torch.zeros(choose.choice(((), (0,), (1,), (3, 5))))
    elif kind == "type":
        weights[name] = torch.zeros_like(value, dtype=choose.choice((torch.half, torch.int8, torch.bool, torch.double)))
    elif kind == "extra":
        weights[choose.choice(("x", "head.7.weight", "encoder.mean", "\x1b"))] = torch.zeros(2)
    elif kind == "nan" and value.is_floating_point():
        weights[name] = torch.full_like(value, float("nan"))
    else:
        weights[f"module.{name}"] = weights.pop(name)
    save_file(weights, folder / WEIGHTS_FILE)


def change_files(folder: Path, choose: random.Random) -> None:
    path = folder / choose.choice((CONFIG_FILE, WEIGHTS_FILE))
    kind = choose.choice(("missing", "folder", "dangling", "loop", "sparse", "pipe", "endless"))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to(folder / "nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(10 * 2**30)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    (folder / "adapter_config.json").write_text("{}")


CHANGES: tuple[Callable[[Path, random.Random], None], ...] = (
    *(change_config, change_config, change_config, change_bytes, change_weights, change_files),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved")
    encoder = load_encoder("timm/test_resnet:random", image_size=(32, 32))
    HardenedModel(encoder, build_head("mlp", 96, 3), class_names="abc", image_size=(32, 32)).save_pretrained(folder)
    return folder


AUDITED: dict[str, Any] = {"root": None, "found": []}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what Python does on the way out of the folder; an audit hook stays for the life of the process."""
    if AUDITED["root"] is None:
        return
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        AUDITED["found"].append((event, str(arguments)[:200]))
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        path = str(arguments[0])
        if not path.startswith((str(AUDITED["root"]), "/dev/")) and "__pycache__" not in path:
            AUDITED["found"].append((event, path))


sys.addaudithook(audit)


@contextlib.contextmanager
def watched(root: Path) -> Iterator[None]:
    AUDITED.update(root=root, found=[])
    try:
        yield
    finally:
        AUDITED["root"] = None
    assert not AUDITED["found"]


def try_folder(saved: Path, folder: Path, seed: int) -> bool:
    """Damage a copy as ``seed`` says and load it; return whether it could be loaded."""
    choose = random.Random(seed)
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    choose.choice(CHANGES)(folder, choose)
    before = sorted(path.name for path in folder.parent.rglob("*"))
    model, message = None, ""
    with watched(folder):
        try:
            model = HardenedModel.from_pretrained(folder, local_files_only=True)
        except GenafError as error:
            message = str(error)
    assert sorted(path.name for path in folder.parent.rglob("*")) == before, seed
    assert len(message) < 5000, seed
    if model is None:
        return False
    assert len(model.class_names) == model(torch.zeros(1, model.encoder.channels, 32, 32)).shape[1]
    return True


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"the network or a process is asked for: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.mark.usefixtures("offline")
def test_a_few_dozen_folders(saved: Path, tmp_path: Path) -> None:
    loaded = [try_folder(saved, tmp_path / str(seed), seed) for seed in range(48)]
    assert 0 < sum(loaded) < len(loaded), "some changes are harmless, most are not"


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_many_folders(saved: Path, tmp_path: Path) -> None:
    state = copy.deepcopy(random.getstate())
    for seed in range(1000, 1000 + MANY):
        try_folder(saved, tmp_path / str(seed), seed)
    assert random.getstate() == state
