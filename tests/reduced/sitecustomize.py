"""Imported by every Python that a test starts with this folder on PYTHONPATH: presets at the size of a test."""

from dataclasses import replace

from genaf_sdk.presets import PRESETS

for name, preset in list(PRESETS.items()):
    config = preset.config
    PRESETS[name] = replace(
        preset,
        config=replace(
            config,
            undefended_epochs=1,
            dual_track=replace(config.dual_track, epochs=1),
            sensitivity=replace(config.sensitivity, samples=64, steps=1),
            adaptability=replace(config.adaptability, epochs=min(1, config.adaptability.epochs), interpolations=1),
            export=replace(config.export, precisions=()),
            evaluation=replace(
                config.evaluation,
                attacks=("uapgd:steps=5", "pgd:steps=5"),
                surrogate_samples=64,
                sample_wise_samples=20,
                curve=(),
            ),
        ),
    )
