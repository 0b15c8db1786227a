"""Bundles made hostile: a copy of a sound one, changed by chance, the doors it can come in by, and a watch on them."""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import json
import os
import random
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from genaf_sdk.cli import main
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.encoders import load_encoder
from genaf_sdk.errors import GenafError
from genaf_sdk.evaluation.evaluate import evaluate
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.export.bundle import write_bundle
from genaf_sdk.export.serve import ServeError, load_bundle
from genaf_sdk.export.settings import ExportConfig
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.models.classifier import describe_architecture
from genaf_sdk.models.heads import build_head
from genaf_sdk.models.storage import CONFIG_FILE, WEIGHTS_FILE
from genaf_sdk.result import provenance
from genaf_sdk.verification import verify

Chance = random.Random
Change = Callable[[Path, Chance], None]
LISTED = "checksums.json"
ESCAPES = (
    "\x1b]0;owned\x07\x1b[2J",
    "\u202e",
    "[/red]",
    "[link=https://e.invalid]x[/link]",
    "<script>alert(1)</script>",
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 7, 200, 10**30, -(2**63), 1e308, 0.5, float("nan"), float("inf")),
    *("", "x", "x" * 100_000, "\0", "\ud800", *ESCAPES, "../x", "/etc/passwd", "folder:/etc", "hub:evil/set", "NaN"),
    *([], [0], [1, 2, 3], [[1]], [None], {}, {"a": 1}, {"name": "mlp"}, [10**9, 10**9], ["x"] * 1000, [[[[[]]]]]),
)
PATHS = (
    *(
        "../secret",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/../../secret",
        "..\\secret",
        "C:\\secret",
        "//secret",
        "serve/../x",
    ),
    *("secret\0", "~/x", "model.onnx", "x" * 5000, "\n", "%2e%2e/secret", "file:///etc/passwd"),
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


# What is changed: what JSON says.


def foreign_id(choose: Chance) -> str:
    """Return an id of an encoder, from plausible to absurd."""
    if choose.random() < 0.5:
        return choose.choice(PREFIXES) * choose.choice((1, 1, 1, 50)) + choose.choice(NAMES)
    settings = {choose.choice(KEYS): choose.choice(VALUES) for _ in range(choose.randint(0, 3))}
    library = choose.choice(("timm", "transformers", "other", None, 3))
    description = {"library": library, "name": choose.choice(NAMES), "arguments": settings, "features": "pooler_output"}
    description["config"] = {"model_type": choose.choice(TYPES), **settings}
    return "hf-hub:o/n:" + json.dumps(description)


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in a document with each of its keys."""
    if isinstance(content, (dict, list)):
        for key in list(content) if isinstance(content, dict) else range(len(content)):
            yield content, key
            yield from places(content[key])


def change_document(path: Path, choose: Chance) -> None:
    """Change one or two values of a JSON file, wherever in it, or how it is written."""
    content = json.loads(path.read_text(encoding="utf-8"))
    kind = choose.choice(
        ("value", "value", "value", "value", "remove", "add", "exchange", "twice", "deep", "long", "all")
    )
    for _ in range(choose.randint(1, 2)):
        found = list(places(content))
        holder, key = choose.choice(found) if found else ({}, None)
        if kind == "value" and found:
            holder[key] = copy.deepcopy(choose.choice(VALUES))  # the next round may change it
        elif kind == "remove" and found:
            del holder[key]
        elif kind == "add" and isinstance(holder, dict):
            holder[str(choose.choice(VALUES))] = copy.deepcopy(choose.choice(VALUES))
        elif kind == "exchange" and found:
            other, place = choose.choice(found)
            holder[key] = json.loads(json.dumps(other[place]))
        elif kind == "all":
            content = copy.deepcopy(choose.choice(VALUES))
    text = json.dumps(content)
    if kind == "twice" and text.startswith("{"):
        text = f"{{{json.dumps(choose.choice(list(content)))}: {json.dumps(choose.choice(VALUES))}, {text[1:]}"
    elif kind == "deep":
        text = text.replace("[", "[" * 50_000, 1)
    elif kind == "long":
        text = text.replace("0", "1" * 5000, 1)
    path.write_text(text.replace("Infinity", choose.choice(("Infinity", "1e999"))), encoding="utf-8")


def change_config(folder: Path, choose: Chance) -> None:
    """Change what the model says it is: often its encoder, or a setting of its head."""
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    kind = choose.random()
    if kind < 0.5:
        config["encoder"] = foreign_id(choose)
    elif kind < 0.7:
        config["head"][choose.choice((*config["head"], "dropout", "scale", "device"))] = choose.choice(VALUES)
    if kind < 0.7:
        path.write_text(json.dumps(config), encoding="utf-8")
    else:
        change_document(path, choose)


def change_report(folder: Path, choose: Chance) -> None:
    """Change what was measured, or a picture of the gallery."""
    path = folder / "report.json"
    if choose.random() < 0.8:
        change_document(path, choose)
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    for image in content["gallery"]["images"]:
        for name in image:
            if isinstance(image[name], str) and len(image[name]) > 100:
                image[name] = base64.b64encode(hostile_picture(choose)).decode()
    path.write_text(json.dumps(content), encoding="utf-8")


def hostile_picture(choose: Chance) -> bytes:
    """Return the bytes of a picture that is none, or of more pixels than its size tells."""
    wide = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    )
    kinds = (
        b"",
        b"x" * 1000,
        wide,
        wide + bytes(1000),
        b"GIF89a" + bytes(100),
        b"II*\0" + bytes(100),
        b"%!PS-Adobe-3.0 EPSF\n",
    )
    return choose.choice(kinds)


def change_list(folder: Path, choose: Chance) -> None:
    """Change the list of checksums: what it says, or which paths it names."""
    path = folder / LISTED
    if choose.random() < 0.5:
        change_document(path, choose)
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    value = content["sha256"].pop(choose.choice(list(content["sha256"])))
    content["sha256"][choose.choice(PATHS)] = choose.choice((value, "0" * 64, hashlib.sha256(b"secret").hexdigest()))
    path.write_text(json.dumps(content), encoding="utf-8")


def change_text(folder: Path, choose: Chance) -> None:
    """Change labels, the bill, the card or another JSON file."""
    documents = [path for path in sorted(folder.glob("*.json")) if path.name != LISTED]
    change_document(choose.choice(documents), choose)


# What is changed: bytes and files.


def regular(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def change_bytes(folder: Path, choose: Chance) -> None:
    """Cut a file, change a bit of it, lie about its length, write it in another code, or exchange it with another."""
    path = choose.choice(regular(folder))
    content = bytearray(path.read_bytes())
    place = choose.randrange(max(len(content), 1))
    kind = choose.choice(("cut", "flip", "length", "header", "empty", "nested", "code", "exchange", "more", "random"))
    if kind == "cut":
        content = content[:place]
    elif kind == "flip" and content:
        content[place] ^= 1 << choose.randrange(8)
    elif kind == "length":
        content[:8] = struct.pack("<Q", choose.choice((0, 1, 2**31, 2**63, 2**64 - 1)))
    elif kind == "header":
        content = content.replace(b"F32", b"F64", 1).replace(b"[", b"[9", 1)
    elif kind == "empty":
        content = bytearray()
    elif kind == "nested":
        content = bytearray(b"[" * 50_000)
    elif kind == "code":
        content = bytearray(bytes(content).decode("latin-1").encode(choose.choice(("utf-16", "utf-32", "utf-8"))))
    elif kind == "exchange":
        other = choose.choice(regular(folder))
        mine, theirs = bytes(content), other.read_bytes()
        other.write_bytes(mine)
        content = bytearray(theirs)
    elif kind == "more":
        content += bytes(choose.randrange(1, 5000))
    else:
        content = bytearray(choose.randbytes(place))
    path.write_bytes(bytes(content))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30)


INSTEAD: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda path, secret: None,
    "folder": lambda path, secret: path.mkdir(),
    "dangling": lambda path, secret: path.symlink_to(path.with_name("nowhere")),
    "loop": lambda path, secret: path.symlink_to(path),
    "sparse": lambda path, secret: sparse(path),
    "pipe": lambda path, secret: os.mkfifo(path),
    "endless": lambda path, secret: path.symlink_to("/dev/zero"),
    "outside": lambda path, secret: path.symlink_to(secret),
    "hard": lambda path, secret: os.link(secret, path),
}
"""What is put in a file's place; the secret lies beside the bundle."""
ODD = ("\x1b[2J", "\n", "\u202e.json", "caf\udce9", "x" * 200, " ", "-rf", "model.x.y.onnx", "...", "é")


def change_files(folder: Path, choose: Chance) -> None:
    """Put something else in a file's place, or something beside it."""
    path = choose.choice(regular(folder))
    kind = choose.choice((*INSTEAD, "inside", "mode", "odd", "odd", "code"))
    if kind == "odd":
        with contextlib.suppress(OSError):
            (folder / choose.choice(("", "perturbations", "serve")) / choose.choice(ODD)).write_bytes(b"x")
    elif kind == "code":
        (folder / "serve" / "__pycache__").mkdir(parents=True, exist_ok=True)
        (folder / "serve" / "__pycache__" / "settings.cpython-311.pyc").write_bytes(b"code")
    elif kind == "mode":
        path.chmod(0)
    elif kind == "inside":
        path.rename(folder / "elsewhere")
        path.symlink_to(folder / "elsewhere")
    else:
        path.unlink()
        INSTEAD[kind](path, folder.parent / "secret")


# What is changed: tensors and graphs.


def change_tensors(path: Path, choose: Chance) -> None:
    """Change a tensor of a safetensors file, or what its header says beside them."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata: dict[str, str] = dict(file.metadata() or {})
    name = choose.choice(sorted(tensors))
    value = tensors[name]
    kind = choose.choice(("drop", "shape", "type", "extra", "nan", "rename", "scale", "metadata", "metadata"))
    if kind == "drop":
        del tensors[name]
    elif kind == "shape":
        tensors[name] = torch.zeros(choose.choice(((), (0,), (1,), (3, 5), (3, 16, 16), (1, 3, 16, 16))))
    elif kind == "type":
        tensors[name] = torch.zeros_like(value, dtype=choose.choice((torch.half, torch.int8, torch.bool, torch.double)))
    elif kind == "extra":
        tensors[choose.choice(("x", "head.7.weight", "encoder.mean", "mask", "\x1b"))] = torch.zeros(2)
    elif kind == "nan" and value.is_floating_point():
        tensors[name] = torch.full_like(value, choose.choice((float("nan"), float("inf"))))
    elif kind == "scale" and value.is_floating_point():
        tensors[name] = value * choose.choice((0.0, -1.0, 0.02, 1e30))
    elif kind == "metadata":
        key = choose.choice([*metadata, "new"])
        metadata[key] = choose.choice(
            (str(choose.choice(VALUES)).replace("\ud800", ""), json.dumps(choose.choice(VALUES)))
        )
    else:
        tensors[f"module.{name}"] = tensors.pop(name)
    save_file(tensors, path, metadata=metadata)


def change_weights(folder: Path, choose: Chance) -> None:
    change_tensors(folder / WEIGHTS_FILE, choose)


def change_perturbation(folder: Path, choose: Chance) -> None:
    path = choose.choice(sorted((folder / "perturbations").glob("*.safetensors")))
    change_tensors(path, choose)
    if choose.random() < 0.2:
        with contextlib.suppress(OSError, ValueError):
            path.rename(
                path.with_name(
                    choose.choice(("..safetensors", "a\nb.safetensors", "x" * 200 + ".safetensors", "\x1b.safetensors"))
                )
            )


OPERATORS = (
    "Loop",
    "If",
    "Scan",
    "RandomNormal",
    "EPContext",
    "NonZero",
    "StringConcat",
    "",
    "x" * 10_000,
    "\x1b[2J",
    "Identity",
)
DIMENSIONS = (0, -1, 1, 7, 2**20, 2**31, 2**40, 2**62)


Model = onnx.ModelProto


def any_node(model: Model, choose: Chance) -> onnx.NodeProto:
    return choose.choice(list(model.graph.node))


def any_weight(model: Model, choose: Chance) -> onnx.TensorProto:
    return choose.choice(list(model.graph.initializer))


def operator(model: Model, choose: Chance) -> None:
    any_node(model, choose).op_type = choose.choice(OPERATORS)


def domain(model: Model, choose: Chance) -> None:
    any_node(model, choose).domain = choose.choice(("com.microsoft", "ai.onnx.ml", "evil", "\x1b[2J"))


def weights_elsewhere(model: Model, choose: Chance) -> None:
    weight = any_weight(model, choose)
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", choose.choice(PATHS)), ("offset", choose.choice(("0", "-1", "9" * 30, "x")))):
        weight.external_data.add(key=key, value=value.replace("\0", ""))


def size_of_input(model: Model, choose: Chance) -> None:
    choose.choice(list(model.graph.input[0].type.tensor_type.shape.dim)).dim_value = choose.choice(DIMENSIONS)


def size_of_weight(model: Model, choose: Chance) -> None:
    any_weight(model, choose).dims[:] = [choose.choice(DIMENSIONS) for _ in range(choose.randint(0, 4))]


def type_of_weight(model: Model, choose: Chance) -> None:
    any_weight(model, choose).data_type = choose.choice((0, 2, 7, 8, 16, 99))


def edge(model: Model, choose: Chance) -> None:
    node, nodes = any_node(model, choose), list(model.graph.node)
    node.input[:] = [
        choose.choice(["nowhere", "", nodes[-1].output[0], choose.choice(nodes).output[0]]),
        *node.input[1:],
    ]


def no_output(model: Model, choose: Chance) -> None:
    del model.graph.output[:]


def metadata(model: Model, choose: Chance) -> None:
    value = choose.choice((json.dumps(choose.choice(VALUES)), "[" * 50_000, "\x1b[2J", "x" * 100_000))
    choose.choice(list(model.metadata_props)).value = value


def versions(model: Model, choose: Chance) -> None:
    model.ir_version, model.opset_import[0].version = choose.choice((0, 3, 99, 2**40)), choose.choice((0, 1, 7, 999))


def numbers(model: Model, choose: Chance) -> None:
    attribute = choose.choice([entry for node in model.graph.node for entry in node.attribute])
    attribute.i = choose.choice(DIMENSIONS)
    attribute.ints[:] = [choose.choice(DIMENSIONS) for _ in attribute.ints]


def grown(model: Model, choose: Chance) -> None:
    """Add the largest value of a constant of any size to the output."""
    sizes, output = np.array([choose.choice(DIMENSIONS)] * choose.randint(1, 3), np.int64), model.graph.output[0].name
    model.graph.initializer.append(onnx.numpy_helper.from_array(sizes, "hostile"))
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
    for kind, taken, given in (("ConstantOfShape", ["hostile"], "grown"), ("Add", ["before", "most"], output)):
        model.graph.node.append(onnx.helper.make_node(kind, taken, [given]))
    model.graph.node.insert(
        len(model.graph.node) - 1, onnx.helper.make_node("ReduceMax", ["grown"], ["most"], keepdims=0)
    )


def names(model: Model, choose: Chance) -> None:
    any_node(model, choose).name = choose.choice((*ESCAPES, "x" * 100_000))
    model.graph.name = choose.choice(ESCAPES)


def function(model: Model, choose: Chance) -> None:
    model.functions.add(name=any_node(model, choose).op_type, domain="")


def many(model: Model, choose: Chance) -> None:
    source = model.graph.input[0].name
    more = [onnx.helper.make_node("Identity", [source], [f"more{n}"]) for n in range(choose.choice((5_000, 25_000)))]
    model.graph.node.extend(more)


def subgraph(model: Model, choose: Chance) -> None:
    inner = onnx.helper.make_graph([], "inner", [], [])
    any_node(model, choose).attribute.append(onnx.helper.make_attribute("body", inner))


GRAPHS = (
    *(operator, domain, weights_elsewhere, size_of_input, size_of_weight, type_of_weight, edge, no_output, metadata),
    *(versions, numbers, grown, names, function, many, subgraph),
)


def change_graph(folder: Path, choose: Chance) -> None:
    """Change a graph: operators, sizes, weights elsewhere, edges, metadata, versions."""
    path = choose.choice(sorted(folder.glob("model*.onnx")))
    model = onnx.load(path, load_external_data=False)
    choose.choice(GRAPHS)(model, choose)
    path.write_bytes(model.SerializeToString())


CHANGES: tuple[Change, ...] = (
    *(change_config, change_report, change_report, change_list, change_text, change_bytes, change_bytes),
    *(change_files, change_weights, change_perturbation, change_graph, change_graph),
)


def seal(folder: Path) -> None:
    """Write the list of checksums anew, as a forger does."""
    sums = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in regular(folder)
        if path.name != LISTED and path.stat().st_size < 2**28 and path.stat().st_mode & 0o400
    }
    listed = folder / LISTED
    if listed.is_file() and not listed.is_symlink():
        listed.unlink()  # it may be a second name of a file outside
    listed.write_text(json.dumps({"sha256": sums}), encoding="utf-8", errors="backslashreplace")


# By which doors it comes in.


def small_bundle(folder: Path) -> tuple[Path, DataSplits]:
    """Write a whole bundle of an encoder with an id, and return it with the images that it was measured on."""
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> LabeledImages:
        labels = torch.arange(count) % 3
        noise = torch.rand(count, 3, 16, 16, generator=generator)
        return LabeledImages.in_memory(0.2 + 0.4 * noise + 0.4 * torch.eye(3)[labels][:, :, None, None], labels)

    data = DataSplits(images(48), images(12), images(30), ("red", "green", "blue"), "colors")
    torch.manual_seed(0)
    encoder = load_encoder("bundled:simclr-cifar10")
    head = build_head("mlp", encoder.feature_dim((16, 16)), 3)
    model = HardenedModel(encoder, head, class_names=data.class_names, image_size=(16, 16)).eval()
    settings = EvaluationConfig(
        attacks=("uapgd:steps=2", "advencoder-pat:epochs=1,batch_size=16", "pgd:steps=1"),
        surrogate_samples=16,
        sample_wise_samples=12,
        curve=(16 / 255,),
        checks=False,
    )
    report = evaluate(model, data, encoder=load_encoder("bundled:simclr-cifar10"), config=settings)
    stated = {"seed": 0, "validation_fraction": 0.15, "loading": {"balance": "none"}}
    what = provenance(load_encoder("bundled:simclr-cifar10"), data, stated)
    report.complete({"config": stated, "model": describe_architecture(model), "provenance": what})
    export = ExportConfig(precisions=("fp16",), tolerance=1.0)
    run: Any = SimpleNamespace(
        report=report, data=data, config=SimpleNamespace(evaluation=settings, export=export, seed=0)
    )
    return write_bundle(model, folder, run), data


def load_door(folder: Path, data: DataSplits) -> None:
    model = HardenedModel.from_pretrained(folder, local_files_only=True)
    assert len(model.class_names) == model(torch.zeros(1, model.encoder.channels, 32, 32)).shape[1]


def unchecked_door(folder: Path, data: DataSplits) -> None:
    HardenedModel.from_pretrained(folder, local_files_only=True, check_files=False)


def encoder_door(folder: Path, data: DataSplits) -> None:
    load_encoder(folder)


def verify_door(folder: Path, data: DataSplits) -> None:
    verify(folder, data)


def report_door(folder: Path, data: DataSplits) -> None:
    """Ask the command for the report.

    Raises:
        GenafError: It was refused, by the exit code of an error of this package.
    """
    said = (folder.parent / "said").open("w", encoding="utf-8", errors="replace")
    with said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(["report", str(folder)])
    text = (folder.parent / "said").read_text(encoding="utf-8")
    assert code in (0, 1, 2), f"exit code {code}: {text[-2000:]}"
    assert "\x1b]" not in text, "an escape reached the terminal"
    assert "\u202e" not in text, "an override of direction reached the terminal"
    if code:
        raise GenafError(text)


def serve_door(folder: Path, data: DataSplits) -> None:
    classifier = load_bundle(folder, provider="cpu", threads=1, max_batch=2)
    classifier.predict(np.zeros((1, *classifier.image_shape), np.float32))


DOORS: dict[str, Callable[[Path, DataSplits], None]] = {
    "from_pretrained": load_door,
    "from_pretrained, unchecked": unchecked_door,
    "load_encoder": encoder_door,
    "verify": verify_door,
    "report": report_door,
    "serve": serve_door,
}


# What nobody may do meanwhile.

AUDITED: dict[str, Any] = {"root": None, "secret": None, "found": []}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
OUTSIDE = (
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
)


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what Python does on the way out of the folder; an audit hook stays for the life of the process."""
    if AUDITED["root"] is None:
        return
    if event in OUTSIDE:
        AUDITED["found"].append((event, str(arguments)[:200]))
    if event == "open" and isinstance(arguments[2], int):
        path = str(arguments[0])
        inside = path.startswith((str(AUDITED["root"]), "/dev/")) or "__pycache__" in path
        if (arguments[2] & WRITING and not inside) or os.path.normpath(path) == AUDITED["secret"]:
            AUDITED["found"].append((event, path))


sys.addaudithook(audit)


@contextlib.contextmanager
def watched(root: Path) -> Iterator[None]:
    """Fail where something inside writes elsewhere, asks the network, starts a process or reads the secret beside."""
    AUDITED.update(root=root, secret=str(root.parent / "secret"), found=[])
    try:
        yield
    finally:
        AUDITED["root"] = None
    assert not AUDITED["found"]


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir())


def attempt(door: str, sound: Path, data: DataSplits, scratch: Path, seed: int) -> str:
    """Change a copy of a sound bundle as ``seed`` says and let it in by a door.

    Returns:
        ``success``, or the name of the error of this package.
    """
    choose = Chance(seed)
    folder = scratch / "case" / "bundle"
    shutil.rmtree(scratch / "case", ignore_errors=True)
    shutil.copytree(sound, folder)
    (scratch / "case" / "secret").write_text("secret")
    (scratch / "case" / "said").touch()
    change = choose.choice(CHANGES)
    change(folder, choose)
    if change is not change_list and choose.random() < 0.8:
        seal(folder)
    before = contents(folder)
    outcome, message = "success", ""
    with watched(scratch / "case" if door == "report" else folder):
        try:
            DOORS[door](folder, data)
        except (GenafError, ServeError) as error:
            outcome, message = type(error).__name__, str(error)
    assert contents(folder) == before, "something was written beside the folder"
    assert (scratch / "case" / "secret").read_text() == "secret"
    assert len(message) < 10_000, f"an error of {len(message)} characters"
    return outcome
