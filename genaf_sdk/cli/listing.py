"""Commands that list: ``genaf encoders``, ``data``, ``attacks`` and ``doctor``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import tyro

from genaf_sdk.cli.output import CHECK_FAILED, DONE, Command, console


@dataclass(frozen=True)
class Encoders(Command):
    """List the encoder ids that this installation can name."""

    containing: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT]")] = ""
    """Only ids that contain this, in any case."""

    def __call__(self) -> int:
        """Run."""
        from rich.table import Table

        from genaf_sdk.encoders import known_encoders

        table = Table("id", "image", "parameters", "weights", "license")
        entries = [entry for entry in known_encoders() if self.containing.lower() in entry.id.lower()]
        for entry in entries:
            image = "x".join(map(str, entry.image_size or ()))
            size = "" if entry.parameters is None else f"{entry.parameters / 1e6:.1f} M"
            table.add_row(entry.id, image, size, "yes" if entry.weights else "", entry.license)
        if not entries:
            console(stderr=True).print(
                f"No id contains {self.containing!r}. `genaf encoders` lists all that are known."
            )
        self.answer([dataclasses.asdict(entry) for entry in entries], *([table] if entries else []))
        return DONE


@dataclass(frozen=True)
class Data(Command):
    """List the data ids; images are counted as train + validation + test, or train + test, or all."""

    def __call__(self) -> int:
        """Run."""
        from rich.table import Table

        from genaf_sdk.data import known_data

        table = Table("id", "classes", "images", "license")
        table.add_column("source", overflow="fold")
        for entry in known_data():
            classes = str(entry.classes or "")
            sizes = " + ".join(f"{size:,}" for size in entry.sizes)
            table.add_row(entry.id, classes, sizes, entry.license, entry.url)
        listed = ("id", "classes", "sizes", "license", "url")
        self.answer([{name: getattr(entry, name) for name in listed} for entry in known_data()], table)
        return DONE


@dataclass(frozen=True)
class Attacks(Command):
    """List the attacks, what each knows, and its settings."""

    def __call__(self) -> int:
        """Run."""
        from rich.table import Table

        from genaf_sdk.attacks import EncoderAttack, FeatureAttack, UniversalModelAttack, known_attacks

        table = Table("name", "knows", "gives")
        table.add_column("settings", overflow="fold")
        table.add_column("source", overflow="fold")
        rows = []
        for name, attack in known_attacks().items():
            knows = "encoder" if issubclass(attack, (EncoderAttack, FeatureAttack)) else "whole model"
            universal = issubclass(attack, (EncoderAttack, UniversalModelAttack))
            kind = "patch" if attack.is_patch else "perturbation"
            gives = kind if universal else f"one {kind} per image"
            settings = {f.name: f.default for f in dataclasses.fields(attack)}
            shown = ", ".join(f"{setting}={_short(default)}" for setting, default in settings.items())
            table.add_row(name, knows, gives, shown, attack.source)
            rows.append({"name": name, "knows": knows, "gives": gives, "settings": settings, "source": attack.source})
        self.answer(rows, table)
        return DONE


@dataclass(frozen=True)
class Doctor(Command):
    """Say what is installed, which devices and providers really work, and how to fix what does not work."""

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.doctor import diagnose, findings_table

        findings = diagnose()
        works = all(finding.status != "fail" for finding in findings)
        content = {"works": works, "findings": [dataclasses.asdict(finding) for finding in findings]}
        self.answer(content, findings_table(findings))
        return DONE if works else CHECK_FAILED


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
