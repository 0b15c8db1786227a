"""What a foreign description of an encoder may say: names, single values and short lists, each in a range.

Descriptions come from ``config.json`` of folders and of the Hub. Libraries take far more than an architecture from
them: paths of files, other repositories, kernels, code. Nothing reaches a library that is not listed here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from genaf_sdk.errors import EncoderError
from genaf_sdk.models.encoder import numbers

SHOWN = 120
WORD = re.compile(r"[A-Za-z0-9_.\-]{0,64}")
LARGEST_SIDE = 8192
LARGEST_NUMBER, LONGEST_LIST, MOST_LAYERS = 65_536, 128, 512
LAYERS = ("layers", "depth", "depths", "num_hidden_layers")

Check = Callable[[Any], bool]


def is_flag(value: Any) -> bool:
    """Whether a value is true, false or nothing."""
    return value is None or isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a number of moderate size, or nothing."""
    if isinstance(value, bool):
        return False
    return value is None or (isinstance(value, (int, float)) and math.isfinite(value) and abs(value) <= LARGEST_NUMBER)


def is_numbers(value: Any) -> bool:
    """Whether a value is such a number, or a short list of them or of switches, perhaps of lists of them."""
    items = value if isinstance(value, (list, tuple)) else [value]
    flat = [part for item in items for part in (item if isinstance(item, (list, tuple)) else [item])]
    return len(flat) <= LONGEST_LIST and all(is_number(part) or isinstance(part, bool) for part in flat)


def is_word(value: Any) -> bool:
    """Whether a value is a short word without slash, colon or space, or nothing."""
    return value is None or (isinstance(value, str) and WORD.fullmatch(value) is not None)


SIZES = (
    *("in_chans", "img_size", "patch_size", "embed_dim", "embed_dims", "depth", "depths", "num_heads", "mlp_ratio"),
    *("layers", "dims", "channels", "widths", "window_size", "kernel_sizes", "cardinality", "base_width"),
    *("stem_width", "output_stride", "reg_tokens"),
)
RATES = (
    *("init_values", "drop_rate", "drop_path_rate", "drop_block_rate", "pos_drop_rate", "patch_drop_rate"),
    *("proj_drop_rate", "attn_drop_rate", "ls_init_value", "head_init_scale"),
)
SWITCHES = (
    *("qkv_bias", "qk_norm", "class_token", "no_embed_class", "pre_norm", "final_norm", "fc_norm", "avg_down"),
    *("dynamic_img_size", "dynamic_img_pad", "strict_img_size", "use_rel_pos_bias", "use_abs_pos_emb"),
    *("use_shared_rel_pos_bias", "conv_mlp", "use_grn"),
)
WORDS = ("global_pool", "act_layer", "norm_layer", "stem_type", "pos_embed")
TIMM_ARGUMENTS: dict[str, Check] = {
    **dict.fromkeys(SIZES, is_numbers),
    **dict.fromkeys(RATES, is_number),
    **dict.fromkeys(SWITCHES, is_flag),
    **dict.fromkeys(WORDS, is_word),
}
"""Arguments of timm's models that are passed on: sizes, rates, switches and the names of its own layers."""

VISION_TYPES = frozenset(
    (
        *("altclip_vision_model", "beit", "bit", "blip_vision_model", "chinese_clip_vision_model"),
        *("clip_vision_model", "clipseg_vision_model", "convnext", "convnextv2", "cvt", "data2vec-vision"),
        *("deit", "dinov2", "dinov2_with_registers", "dinov3_convnext", "dinov3_vit", "efficientnet"),
        *("efficientformer", "focalnet", "hiera", "ijepa", "levit", "mlcd", "mlcd_vision_model"),
        *("mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "poolformer", "pvt", "pvt_v2"),
        *("regnet", "resnet", "segformer", "siglip2_vision_model", "siglip_vision_model", "swiftformer"),
        *("swin", "swinv2", "van", "vit", "vit_mae", "vit_msn"),
    )
)
"""Types of transformers that are image encoders of that library alone, without a backbone of another."""
FORBIDDEN = (
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation"),
    *("backbone", "backbone_config", "backbone_kwargs", "use_timm_backbone", "use_pretrained_backbone"),
    *("checkpoint_path", "quantization_config", "trust_remote_code", "adapter_kwargs"),
)
"""Settings of transformers that name other repositories, files, kernels or code."""


def timm_arguments(arguments: Any, owner: str) -> dict[str, Any]:
    """Return the arguments of a model of timm, each one known, of its type and in range.

    Raises:
        EncoderError: One is not.
    """
    if not isinstance(arguments, dict):
        raise _refused(owner, f"the arguments {arguments!r}", "a JSON object")
    for name, value in arguments.items():
        if name not in TIMM_ARGUMENTS:
            raise _refused(owner, f"the argument {name!r}", f"one of {', '.join(sorted(TIMM_ARGUMENTS))}")
        _require(TIMM_ARGUMENTS[name], owner, name, value)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


def transformers_settings(settings: Any, known: dict[str, Any], owner: str) -> dict[str, Any]:
    """Return those settings of a model of transformers that its type has, each of its default's kind and in range.

    Args:
        settings: Foreign ones. Names that the type does not know are passed over, as the library would keep them for
            nothing; what could lead elsewhere is refused.
        known: The type's settings and their defaults.
        owner: Whose they are, for messages.

    Raises:
        EncoderError: A setting names another repository, a file, a kernel or code, or its value does not fit.
    """
    if not isinstance(settings, dict):
        raise _refused(owner, f"the settings {settings!r}", "a JSON object")
    for name in FORBIDDEN:
        if settings.get(name):
            raise _refused(owner, f"the setting {name!r}", "an architecture of transformers alone")
    own = {name: value for name, value in settings.items() if name in known and not name.startswith("_")}
    for name, value in own.items():
        _require(_check_like(known[name]), owner, name, value)
    return own


def image_configuration(config: dict[str, Any], owner: str) -> dict[str, Any]:
    """Return mean, std, size and interpolation of timm's ``pretrained_cfg``, as ``EncoderOptions.encoder`` takes them.

    Raises:
        EncoderError: One is no number, size or name.
    """
    size = config["input_size"]
    sound = isinstance(size, (list, tuple)) and len(size) == 3
    if not sound or not all(isinstance(side, int) and 1 <= side <= LARGEST_SIDE for side in size):
        raise _refused(owner, f"input_size = {size!r}", f"channels, height and width, each at most {LARGEST_SIDE}")
    interpolation = config.get("interpolation", "bilinear")
    if not is_word(interpolation):
        raise _refused(owner, f"interpolation = {interpolation!r}", "a name such as bicubic")
    return {
        "mean": numbers(config["mean"], "mean"),
        "std": numbers(config["std"], "standard deviation"),
        "image_size": (size[1], size[2]),
        "interpolation": interpolation,
    }


def _check_like(default: Any) -> Check:
    if isinstance(default, bool):
        return is_flag
    if isinstance(default, (int, float)):
        return lambda value: is_numbers(value) and not isinstance(value, bool)
    return lambda value: is_flag(value) or is_numbers(value) or is_word(value) or _is_words(value)


def _is_words(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) <= LONGEST_LIST and all(is_word(item) for item in value)


def _require(check: Check, owner: str, name: str, value: Any) -> None:
    if not check(value):
        raise _refused(owner, f"{name} = {value!r}", "a number, a switch, a word or a short list, as its kind is")
    if name in LAYERS:
        count = sum(value) if isinstance(value, (list, tuple)) else value
        if isinstance(count, (int, float)) and not 0 <= count <= MOST_LAYERS:
            raise _refused(owner, f"{count} layers", f"at most {MOST_LAYERS}")


def _refused(owner: str, what: str, expected: str) -> EncoderError:
    return EncoderError(
        f"The description of the encoder {owner[:SHOWN]!r} holds {what[:SHOWN]}, which is not passed on.",
        expected=expected[:2000],
        remedy="build the module yourself and pass it",
    )
