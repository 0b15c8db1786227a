"""Random numbers that are functions of a key, a row and a column: the same on every device and in every version."""

from __future__ import annotations

import pytest
import torch

from genaf_sdk.engine.randomness import integers, kept_random_state, random_key, uniform

GOLDEN, WORD = 0x9E3779B97F4A7C15, 2**64


def mixed(bits: int) -> int:
    """SplitMix64's finalizer, as published."""
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % WORD
    return bits ^ (bits >> 31)


@pytest.mark.parametrize("key", [0, 5, -1, -(2**63), 2**63 - 1])
def test_uniform_numbers_are_those_of_splitmix64(key: int) -> None:
    assert mixed(GOLDEN) == 0xE220A8397B1DCDAF, "the publication's first number for the seed 0"
    rows = torch.tensor([0, 3, 1000])
    found = uniform(key, rows, (2, 2), -1.0, 3.0)
    for place, row in enumerate(rows.tolist()):
        begin = mixed((key + GOLDEN * (row + 1)) % WORD)
        bits = [mixed((begin + GOLDEN * column) % WORD) >> 40 for column in range(1, 5)]
        expected = torch.tensor([value / 2**24 * 4 - 1 for value in bits]).view(2, 2)
        torch.testing.assert_close(found[place], expected, rtol=0, atol=1e-6)
    assert torch.equal(uniform(key, rows[1:], (2, 2), -1.0, 3.0), found[1:]), "whoever has the row"


def test_whole_numbers_are_below_their_bound_and_all_of_them_come_up() -> None:
    found = integers(random_key(0, "some"), torch.arange(500), (), 5)
    assert found.unique().tolist() == [0, 1, 2, 3, 4]
    assert found.bincount().min() > 70


def test_keys_stay_what_they_are() -> None:
    """Of others, a run that a later version resumes would not end in the same weights."""
    assert random_key(0, "stage 1") == 4220009652313918379
    assert random_key(7, "order", 2) == -29148707381250812


def test_the_generators_of_several_gpus_are_kept_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch warns where it has to find them itself, and a warning is an error here."""
    states = [torch.zeros(2), torch.ones(2)]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda device: states[int(device)].clone())
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda state, device: states[int(device)].copy_(state))
    monkeypatch.setattr("torch.random._fork_rng_warned_already", False)
    before = torch.get_rng_state()
    with kept_random_state():
        torch.rand(1)
        states[1].zero_()
    assert torch.equal(torch.get_rng_state(), before)
    assert states[1].tolist() == [1, 1]
