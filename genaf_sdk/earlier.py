"""Settings as earlier versions wrote them, read as those of today."""

from __future__ import annotations

from typing import Any

from genaf_sdk.errors import ConfigError

MOVED = {
    "undefended_epochs": "baseline.epochs",
    "undefended_encoder_learning_rate": "baseline.encoder_learning_rate",
    "validation_fraction": "loading.validation_fraction",
    "mixed_precision": "machine.mixed_precision",
    "sync_batch_norm": "machine.sync_batch_norm",
    "micro_batch_size": "machine.micro_batch_size",
    "non_finite": "machine.non_finite",
    "sensitivity": "method.adaptability.sensitivity",
    "adaptability": "method.adaptability",
    "dual_track.epochs": "method.schedule.epochs",
    "dual_track.batch_size": "method.schedule.batch_size",
    "dual_track.encoder_learning_rate": "method.schedule.encoder_learning_rate",
    "dual_track.head_learning_rate": "method.schedule.head_learning_rate",
    "dual_track.weight_decay": "method.schedule.weight_decay",
    "dual_track.schedule": "method.schedule.decay",
    "dual_track.shift": "method.schedule.shift",
    "dual_track.augmentation": "method.schedule.augmentation",
    "dual_track.adversarial_weight": "method.adversarial_weight",
    "dual_track.clean_weight": "method.clean_weight",
    "dual_track.genetic_weight": "method.genetic_weight",
    "dual_track.divergence_weight": "method.beta",
    "dual_track.adversary.universal_budget": "method.against.universal_epsilon",
    "dual_track.adversary.bank_size": "method.against.bank_size",
    "dual_track.adversary.redraw_every": "method.against.redraw_every",
    "dual_track.adversary.sample_wise_share": "method.against.sample_wise_share",
    "dual_track.adversary.patch_share": "method.against.patch_share",
    "dual_track.adversary.patch_area": "method.against.patch_area",
    "dual_track.adversary.budget": "method.against.epsilon",
    "dual_track.adversary.step_size": "method.against.step_size",
    "dual_track.adversary.steps": "method.against.steps",
}
"""Old place -> new place. A method is named by ``_method_of``."""
SAMPLE_WISE = ("epsilon", "step_size", "steps")
UNUSED = ("name", "away_from", "ramp")
"""Of ``sample_wise`` of a mixture, which was a PGD of its own."""
WHOLE_MIXTURE = {"sample_wise", "sample_wise_share", "universal_epsilon", "patch_area", "patch_share", "bank_size"}
"""Where all of these are stated and ``patch_aim`` is not, patches lay at random."""
SHARED = ("universal_epsilon", "bank_size", "redraw_every", "sample_wise_share", "patch_share", "patch_area")
WEIGHTS = ("adversarial_weight", "clean_weight", "genetic_weight")
OBJECTIVES = ("dual-track", "trades", "mart")
STAGE_2_EPOCHS = 6


def settings_of_today(content: Any, base: dict[str, Any] | None = None) -> Any:
    """Return settings in today's layout; what is in it already, or is no JSON object, as it is.

    Args:
        content: Settings, all or some.
        base: What settings that are not stated are taken from, in today's layout; by default Gen-AF's defaults.

    Raises:
        ConfigError: They describe a training that this version does not have.
    """
    old = ("dual_track", "adaptability", "sensitivity")
    if not isinstance(content, dict) or not (
        any(name in content for name in (*old, *MOVED)) or str(content.get("method")).startswith("gen-af-")
    ):
        return _completed(content)
    for name in old:
        if name in content and not isinstance(content[name], dict):
            raise ConfigError(f"{name} is {content[name]!r}.", expected="a JSON object")
    track = dict(content.get("dual_track", {}))
    adversary = track.get("adversary", {})
    if not isinstance(adversary, dict):
        raise ConfigError(f"dual_track.adversary is {adversary!r}.", expected="a JSON object")
    rest = {name: value for name, value in content.items() if name not in (*MOVED, *old, "method")}
    for place, new in MOVED.items():
        value = _at(content, place)
        if value is not _ABSENT:
            _put(rest, new, value)
    _refuse_unknown("dual_track", track, {"objective", "freeze_encoder", "alignment_weight", "adversary"})
    _refuse_unknown("dual_track.adversary", adversary, {"kind"})
    _place_method(rest, content, track, adversary, (base or {}).get("method", {"name": "gen-af"}))
    return rest


def _completed(content: Any) -> Any:
    """Return settings without what a mixture once had and never used, and with what it once did without saying so."""
    if not isinstance(content, dict):
        return content
    kept = {name: _completed(value) for name, value in content.items()}
    if kept.keys() >= WHOLE_MIXTURE:
        kept.setdefault("patch_aim", 0.0)
    if isinstance(kept.get("sample_wise"), dict):
        kept["sample_wise"] = {name: value for name, value in kept["sample_wise"].items() if name not in UNUSED}
    return kept


def _place_method(
    rest: dict[str, Any],
    content: dict[str, Any],
    track: dict[str, Any],
    adversary: dict[str, Any],
    base: dict[str, Any],
) -> None:
    """Name the method of ``rest["method"]`` and keep the settings that this one has."""
    if track.get("alignment_weight", 0.0):
        raise ConfigError(
            f"dual_track.alignment_weight is {track['alignment_weight']!r}.",
            expected="0: the alignment term did not help and is gone",
        )
    base_kind = {"pgd": "pgd", "mixture": "mixed"}[(base.get("against") or {"name": "mixture"})["name"]]
    kind = adversary.get("kind", base_kind)
    known = ("mixed", "pgd", "pgd-kl", "none")
    if kind not in known:
        raise ConfigError(f"dual_track.adversary.kind is {kind!r}.", expected=f"one of {', '.join(map(repr, known))}")
    stated = {"objective", "clean_weight", "genetic_weight", "freeze_encoder"} & set(track) or "kind" in adversary
    name = _method_of(content, track, kind) if stated else base["name"]
    method = dict(rest.get("method", {}))
    against = dict(method.pop("against", {}))
    sample_wise = {key: against[key] for key in SAMPLE_WISE if key in against}
    shared = {key: against[key] for key in SHARED if key in against}
    if kind == "mixed":
        against = {"name": "mixture", "ramp": 0.0, "patch_aim": 0.0, **shared}
        if sample_wise:
            against["sample_wise"] = sample_wise
    else:
        against = {"name": "pgd", "ramp": 0.0, **sample_wise}
        if "kind" in adversary:
            against = {"steps": 2, **against, "away_from": "prediction" if kind == "pgd-kl" else "label"}
    keep = {"schedule"}
    keep |= {"adaptability"} if name in ("gen-af", "rift") else set()
    keep |= set(WEIGHTS) if name == "gen-af" else {"beta"} if name in ("trades", "mart") else set()
    kept = {key: value for key, value in method.items() if key in keep}
    if "adaptability" in content and "adaptability" in kept:  # stage 2 had no probe
        kept["adaptability"] = {"probe_epochs": 0, **kept["adaptability"]}
    is_attacked = kind != "none" and name not in ("fine-tuning", "linear-probe")
    rest["method"] = {"name": name, **kept, **({"against": against} if adversary and is_attacked else {})}


def _method_of(content: dict[str, Any], track: dict[str, Any], kind: str) -> str:
    objective = track.get("objective", "dual-track")
    if objective not in OBJECTIVES:
        raise ConfigError(
            f"dual_track.objective is {objective!r}.", expected=f"one of {', '.join(map(repr, OBJECTIVES))}"
        )
    if objective != "dual-track":
        return str(objective)
    if kind == "none":
        return "linear-probe" if track.get("freeze_encoder") else "fine-tuning"
    if track.get("clean_weight", 1.0) or track.get("genetic_weight", 1.0):
        return "gen-af"
    if kind == "mixed":
        return "universal-at"
    stage_2 = content.get("adaptability", {}).get("epochs", STAGE_2_EPOCHS)
    return "rift" if content.get("method") == "rift" and stage_2 else "pgd-at"


def _refuse_unknown(group: str, content: dict[str, Any], known: set[str]) -> None:
    known = known | {place.removeprefix(f"{group}.").split(".")[0] for place in MOVED if place.startswith(f"{group}.")}
    for name in content:
        if name not in known:
            raise ConfigError(f"There is no setting {group}.{name!r}.", expected=f"one of {', '.join(sorted(known))}")


_ABSENT = object()


def _at(content: dict[str, Any], place: str) -> Any:
    """Return what stands at ``place``, or ``_ABSENT``."""
    found: Any = content
    for name in place.split("."):
        found = found.get(name, _ABSENT) if isinstance(found, dict) else _ABSENT
    return found


def _put(content: dict[str, Any], place: str, value: Any) -> None:
    *groups, name = place.split(".")
    for group in groups:
        content = content.setdefault(group, {})
    if isinstance(value, dict):
        content[name] = {**value, **content.get(name, {})}
    else:
        content[name] = value
