"""Perturbations: keys, files of today and of yesterday, and everything that is no perturbation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from genaf_sdk.errors import AttackError, OutputError
from genaf_sdk.inputs.keys import Knowledge, PerturbationKey, key_from
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.inputs.threat import Linf, Patch


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (PerturbationKey(Knowledge.NOISE, "noise"), "noise"),
        (PerturbationKey(Knowledge.TRANSFER, "uapgd"), "transfer-uapgd"),
        (PerturbationKey(Knowledge.ADAPTIVE, "uapgd", "hardened"), "adaptive-uapgd-hardened"),
        (PerturbationKey(Knowledge.ADAPTIVE, "uap", "undefended", "train"), "adaptive-uap-undefended-train"),
        (PerturbationKey(Knowledge.WHITE_BOX, "label-uap", "hardened", run=2), "white-box-label-uap-hardened-2"),
        (PerturbationKey(Knowledge.TRANSFER, "uapgd", label="red"), "red"),
    ],
)
def test_a_key_is_written_as_the_names_of_today_and_read_from_its_fields(key: PerturbationKey, name: str) -> None:
    assert str(key) == name
    assert key_from(json.loads(json.dumps(key.to_dict()))) == key


def test_keys_are_compared_by_their_fields() -> None:
    first, second = PerturbationKey(attack="a-b", model="c"), PerturbationKey(attack="a", model="b-c")
    assert str(first) == str(second)
    assert first != second
    assert len({first, second, PerturbationKey("transfer", "a-b", "c")}) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"knowledge": "psychic"},
        {"knowledge": "transfer", "attack": 3},
        {"knowledge": "transfer", "run": 0},
        {"knowledge": "transfer", "run": True},
        {"knowledge": "transfer", "color": "red"},
        {"knowledge": "transfer", "label": "../../etc/passwd"},
        {"knowledge": "transfer", "model": "a\\b"},
        {"knowledge": "transfer", "attack": "a\nb"},
        {"knowledge": "transfer", "label": "x" * 300},
    ],
)
def test_what_is_no_key_is_refused(content: object) -> None:
    with pytest.raises(AttackError):
        key_from(content)


def corner(size: int = 2) -> Tensor:
    mask = torch.zeros(1, 4, 4)
    mask[:, :size, :size] = 1
    return mask


def test_a_number_in_place_of_a_threat_is_the_budget_that_older_attacks_hand_over() -> None:
    assert Perturbation(torch.zeros(3, 4, 4), 0.1).threat == Linf(0.1)  # type: ignore[arg-type]
    assert Perturbation(torch.zeros(3, 4, 4), 0.25, corner()).threat == Patch(0.25)  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", [None, corner()])
def test_a_file_holds_everything(tmp_path: Path, mask: Tensor | None) -> None:
    threat = Linf(0.1) if mask is None else Patch(0.25)
    key = PerturbationKey(Knowledge.ADAPTIVE, "mine", "hardened", run=3)
    details = {"seed": 1, "layer": "conv", "share": 0.5, "none": None, "flag": True}
    written = Perturbation(torch.rand(3, 4, 4, dtype=torch.float64) / 10, threat, mask, key, details)
    written.save(tmp_path / "p.safetensors")
    read = Perturbation.load(tmp_path / "p.safetensors")
    assert (read.threat, read.key, read.details) == (threat, key, details)
    assert torch.equal(read.values, written.values.float())
    assert (read.mask is None) == (mask is None)
    assert mask is None or torch.equal(read.mask, mask)
    assert (read.attack, read.budget) == ("mine", threat.size)
    images = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(read.apply(images), written.apply(images))


def old(path: Path, mask: Tensor | None = None, **metadata: str) -> Path:
    tensors = {"values": torch.rand(3, 4, 4) / 10} | ({} if mask is None else {"mask": mask})
    save_file(tensors, path, metadata={"attack": "uapgd", "budget": "0.25", "details": '{"seed": 0}'} | metadata)
    return path


def test_an_older_file_is_read_and_keeps_its_name(tmp_path: Path) -> None:
    plain = Perturbation.load(old(tmp_path / "adaptive-uapgd-hardened-2.safetensors"))
    assert plain.threat == Linf(0.25)
    assert (str(plain.key), plain.attack, plain.details) == ("adaptive-uapgd-hardened-2", "uapgd", {"seed": 0})
    patch = Perturbation.load(old(tmp_path / "transfer-x.safetensors", corner()))
    assert patch.threat == Patch(0.25)


NEW = {"key": '{"knowledge": "transfer"}', "threat": '{"kind": "linf", "size": 0.25}', "details": "{}"}


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"values": torch.full((3, 4, 4), torch.nan)}, {}),
        ({"values": torch.full((3, 4, 4), torch.inf)}, {}),
        ({"values": torch.full((3, 4, 4), 1e30)}, {}),
        ({"values": torch.full((3, 4, 4), 0.3)}, {}),
        ({"values": torch.zeros(3, 4, 4).char()}, {}),
        ({"values": torch.zeros(3, 4, 4).double()}, {}),
        ({"values": torch.zeros(4, 4)}, {}),
        ({"values": torch.zeros(3, 0, 4)}, {}),
        ({"other": torch.zeros(3, 4, 4)}, {}),
        ({"values": torch.zeros(3, 4, 4), "mask": torch.zeros(1, 4, 4)}, {}),  # an L_inf perturbation with a mask
        ({"values": torch.zeros(3, 4, 4)}, {"threat": '{"kind": "patch", "size": 0.25}'}),  # a patch without one
        ({"values": torch.zeros(3, 4, 4)}, {"threat": '{"kind": "linf", "size": NaN}'}),
        ({"values": torch.zeros(3, 4, 4)}, {"threat": '{"kind": "linf", "size": 2.5}'}),
        ({"values": torch.zeros(3, 4, 4)}, {"threat": '{"kind": "linf", "size": "0.1"}'}),
        ({"values": torch.zeros(3, 4, 4)}, {"threat": "0.25"}),
        ({"values": torch.zeros(3, 4, 4)}, {"key": '"transfer"'}),
        ({"values": torch.zeros(3, 4, 4)}, {"key": '{"knowledge": "transfer", "label": "a/b"}'}),
        ({"values": torch.zeros(3, 4, 4)}, {"details": "[]"}),
        ({"values": torch.zeros(3, 4, 4)}, {"details": '{"seed": []}'}),
        ({"values": torch.zeros(3, 4, 4)}, {"details": "{"}),
    ],
)
def test_what_is_no_perturbation_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]
) -> None:
    save_file(tensors, tmp_path / "p.safetensors", metadata=NEW | metadata)
    with pytest.raises(OutputError, match=r"p\.safetensors holds no perturbation"):
        Perturbation.load(tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    ("mask", "metadata"),
    [
        (corner(3), {}),  # larger than it says
        (torch.full((1, 4, 4), torch.nan), {}),
        (torch.full((1, 4, 4), 0.2), {}),
        (corner()[0], {}),
        (None, {"budget": "nan"}),
        (None, {"budget": "inf"}),
        (None, {"budget": "-0.1"}),
        (None, {"budget": "ten"}),
        (None, {"details": "3"}),
    ],
)
def test_an_older_file_is_held_to_what_it_states(tmp_path: Path, mask: Tensor | None, metadata: dict[str, str]) -> None:
    with pytest.raises(OutputError, match="holds no perturbation"):
        Perturbation.load(old(tmp_path / "p.safetensors", mask, **metadata))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(AttackError, match=r"\(3, 4, 4\).*\(3, 8, 8\)"):
        Perturbation(torch.zeros(3, 4, 4), Linf(0.1)).apply(torch.rand(1, 3, 8, 8))
