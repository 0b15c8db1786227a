from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress
from torch import nn

from genaf_sdk import HardenConfig, harden, progress
from genaf_sdk.data import DataSplits
from genaf_sdk.progress import Lines, make_display


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_an_epoch_and_one_a_minute_within() -> None:
    lines: list[str] = []
    clock = Clock()
    with Lines(lines.append, clock) as display:
        task = display.add_task("stage 1", total=20)
        for step in range(20):
            clock.now += 7
            name, figures = f"stage 1 {step // 10 + 1}/2", f"loss {20 - step}"
            display.update(task, completed=step + 1, description=name, figures=figures)
        display.remove_task(task)
    assert lines == [
        "stage 1 1/2 loss 12 (45%, 77 s left)",
        "stage 1 1/2 loss 11 (50%, 77 s left)",
        "stage 1 2/2 loss 1",
    ]


def test_a_log_names_every_attack_but_not_all_of_many_small_layers() -> None:
    lines: list[str] = []
    clock = Clock()
    with Lines(lines.append, clock) as display:
        task = display.add_task("evaluation", total=None)
        for name, seconds in (("noise", 0.1), ("transfer: uapgd", 9), ("transfer: uapgd", 9), ("white-box: pgd", 9)):
            display.update(task, figures=name)
            clock.now += seconds
        assert lines == ["evaluation noise", "evaluation transfer: uapgd", "evaluation white-box: pgd"]
        task = display.add_task("sensitivity", total=None)
        for layer in range(100):
            clock.now += 0.1
            display.update(task, figures=f"layer {layer}")
    assert lines[3:] == [f"sensitivity layer {layer}" for layer in range(5)]


@pytest.mark.parametrize(
    ("terminal", "jupyter", "wanted", "kind"),
    [
        (True, False, None, "bar"),
        (False, False, None, "nothing"),
        (False, False, True, "lines"),
        (False, True, None, "lines"),
        (True, False, False, "nothing"),
    ],
)
def test_the_display_suits_the_place(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, jupyter: bool, wanted: bool | None, kind: str
) -> None:
    def console(**_: object) -> Console:
        made = Console(file=io.StringIO(), force_terminal=terminal, force_jupyter=False)
        made.is_jupyter = jupyter
        return made

    monkeypatch.setattr(progress, "PlainConsole", console)
    display = make_display(wanted)
    assert isinstance(display, Lines if kind == "lines" else Progress)
    assert not isinstance(display, Progress) or display.disable == (kind == "nothing")
    assert isinstance(make_display(wanted, speaks=False), Progress)


def test_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with make_display(True) as display:
        display.update(display.add_task("evaluation", total=None), figures="[noise] " + "x" * 300)
    captured = capsys.readouterr()
    assert captured.err == f"evaluation [noise] {'x' * 300}\n"
    assert not captured.out


def test_every_epoch_ends_with_its_figures(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = quick_config.with_(method={"schedule": {"epochs": 2}, "adaptability": {"epochs": 0}})
    harden(tiny_encoder, striped, config, evaluate=False, progress=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stage 1")]
    assert [line.split()[2] for line in lines] == ["1/2", "2/2"]
    assert all("train_accuracy" in line and "validation_accuracy" in line for line in lines)
