"""``timm/NAME[:OPTIONS]``, and repositories and folders that timm wrote; every model without its classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genaf_sdk.encoders.described import image_configuration, timm_arguments
from genaf_sdk.encoders.source import KnownEncoder, read_number, read_options, read_size, write_size
from genaf_sdk.errors import EncoderError
from genaf_sdk.models.storage import CONFIG_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from torch import nn

    from genaf_sdk.encoders.repository import Repository
    from genaf_sdk.encoders.source import EncoderOptions
    from genaf_sdk.models.encoder import PixelEncoder

OPTIONS = ("channels", "image_size")


def known() -> list[KnownEncoder]:
    """Return the models that timm has published weights for, with the license of the weights and the image size."""
    import timm

    configs = {name: timm.get_pretrained_cfg(name) for name in timm.list_pretrained()}
    return [
        KnownEncoder(f"timm/{name}", "timm", config.license or "", image_size=tuple(config.input_size[1:]))
        for name, config in configs.items()
    ]


def build(name: str) -> nn.Module:
    """Return the architecture without weights.

    Raises:
        EncoderError: timm has no such model, or it does not take the options.
    """
    model, _, text = name.partition(":")
    _, options = read_options(text, f"timm/{name}", OPTIONS)
    return _create(model, pretrained=False, **_arguments(model, options))


def load(name: str, options: EncoderOptions) -> PixelEncoder:
    """Return the encoder with timm's weights (downloaded once), or untrained after ``:random``.

    The number of channels and the image size are the caller's, where given: timm adapts the first convolution and
    resamples position embeddings.

    Raises:
        EncoderError: timm has no such model or weights, or they cannot be downloaded.
    """
    model, _, text = name.partition(":")
    weights, spelled = read_options(text, f"timm/{name}", OPTIONS)
    if weights not in ("", "random"):
        raise EncoderError(
            f"The encoder id {f'timm/{name}'!r} asks for the weights {weights!r}.",
            expected="timm/NAME.TAG for a certain set of weights, timm/NAME:random for none",
        )
    config = _configuration(model)
    if not weights and not config.has_weights:
        raise EncoderError(f"timm has no weights for {model!r}.", remedy=f"try timm/{model}:random, or another model")
    if "channels" not in spelled and options.channels != 3:
        spelled["channels"] = str(options.channels)
    own_size = tuple(config.input_size[1:])
    size = read_size(spelled["image_size"], f"timm/{name}") if "image_size" in spelled else options.image_size
    if size and size != own_size:
        spelled["image_size"] = write_size(size)
    tag = f".{config.tag}" if config.tag and "." not in model and not weights else ""
    source = f"timm/{model}{tag}" + _spelled(weights, spelled)
    try:
        backbone = _create(model, pretrained=not weights, **_arguments(model, spelled))
    except OSError as error:
        raise _cannot_download(source, config, error) from error
    return options.encoder(
        backbone,
        source=source,
        mean=config.mean,
        std=config.std,
        image_size=size or own_size,
        interpolation=config.interpolation,
        channels=int(spelled.get("channels", 3)),
    )


def describes(config: dict[str, Any]) -> bool:
    """Whether a ``config.json`` is of a model of timm."""
    return "architecture" in config or "pretrained_cfg" in config


def load_repository(repository: Repository, config: dict[str, Any], options: EncoderOptions) -> PixelEncoder:
    """Return the encoder of a folder or Hub repository that timm wrote; pickled weights are read without executing any.

    Raises:
        EncoderError: timm cannot read it, or it does not state its architecture and normalization.
    """
    import timm

    own = config.get("pretrained_cfg") or config
    own = own if isinstance(own, dict) else {}
    missing = [key for key in ("mean", "std", "input_size") if key not in own]
    if missing or "architecture" not in config:
        raise EncoderError(
            f"The {CONFIG_FILE} of {repository.name!r} states no {(missing or ['architecture'])[0]!r}.",
            expected="'architecture', and under 'pretrained_cfg' 'mean', 'std' and 'input_size', as timm writes them",
        )
    owner = f"{CONFIG_FILE} of {repository.name}"
    given = config.get("model_args") or {}
    if isinstance(given, dict):
        given = {key: value for key, value in given.items() if key != "num_classes"}
    stored = timm_arguments(given, owner)
    _require_known(str(config["architecture"]))
    stated = image_configuration(own, owner)
    asked: dict[str, Any] = {"in_chans": options.channels} if options.channels != 3 else {}
    size = stored.get("img_size") or stated["image_size"]
    own_size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if options.image_size not in (None, own_size) and own.get("fixed_input_size"):
        asked["img_size"] = options.image_size
    place = f"hf-hub:{repository.name}" if repository.folder is None else f"local-dir:{repository.folder}"
    try:
        model: nn.Module = timm.create_model(place, pretrained=True, num_classes=0, **asked)
    except Exception as error:  # timm and its readers raise whatever a foreign file makes them raise
        raise EncoderError(
            f"timm cannot load {repository.name!r}: {error}.",
            expected=f"a repository or folder of {CONFIG_FILE} and {WEIGHTS_FILE} as timm writes them",
            remedy=f"run `hf download {repository.name}` on a machine with network, and pass the folder",
        ) from error
    description = {"library": "timm", "name": config["architecture"], "arguments": {**stored, **asked}}
    return options.encoder(model, source=repository.described(description), **{**stated, "image_size": own_size})


def rebuild(description: dict[str, Any]) -> nn.Module:
    """Return the architecture that ``load_repository`` described, without weights.

    Raises:
        EncoderError: This version of timm does not have it, or the description says what is not passed on.
    """
    name = str(description.get("name"))
    return _create(name, pretrained=False, **timm_arguments(description.get("arguments", {}), name))


def _configuration(model: str) -> Any:
    import timm

    _require_known(model)
    try:
        return timm.get_pretrained_cfg(model)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{model.partition('.')[0]}.*")
        raise EncoderError(
            f"timm has no weights {model!r}.", expected=f"one of {', '.join(f'timm/{tag}' for tag in tags)}"
        ) from error


def _spelled(weights: str, options: dict[str, str]) -> str:
    text = ",".join([*filter(None, [weights]), *(f"{key}={value}" for key, value in options.items())])
    return f":{text}" if text else ""


def _arguments(model: str, options: dict[str, str]) -> dict[str, Any]:
    """Return the options as timm's arguments; models that take images of any size have none for it."""
    arguments: dict[str, Any] = {}
    if "channels" in options:
        arguments["in_chans"] = read_number(options["channels"], f"timm/{model}")
    if "image_size" in options:
        size = read_size(options["image_size"], f"timm/{model}")
        if _configuration(model).fixed_input_size:
            arguments["img_size"] = size
    return arguments


def _require_known(model: str) -> None:
    import difflib

    import timm

    if not timm.is_model(model):
        near = difflib.get_close_matches(model, [*timm.list_models(), *timm.list_pretrained()], n=3, cutoff=0.5)
        raise EncoderError(
            f"timm has no model {model!r}.",
            expected="a name of timm.list_models(), such as resnet18 or vit_small_patch14_dinov2.lvd142m",
            remedy=f"try {', '.join(f'timm/{name}' for name in near)}" if near else "`genaf encoders` lists all",
        )


def _create(model: str, *, pretrained: bool, **arguments: Any) -> nn.Module:
    import timm

    _require_known(model)
    try:
        backbone: nn.Module = timm.create_model(model, pretrained=pretrained, num_classes=0, **arguments)
    except OSError:
        raise
    except Exception as error:  # the models check their arguments in ways of their own
        raise EncoderError(
            f"timm's {model!r} cannot be built with {arguments or 'its own settings'}: {error}.",
            remedy="leave the option out, or choose an image size that is a multiple of the model's stride",
        ) from error
    return backbone


def _cannot_download(source: str, config: Any, error: OSError) -> EncoderError:
    return EncoderError(
        f"The weights of {source} cannot be downloaded: {error}.",
        remedy=f"on another machine run `hf download {config.hf_hub_id}` and put the folder it prints in the same "
        f"place here (HF_HOME, by default ~/.cache/huggingface), or pass the folder of config.json and "
        f"model.safetensors as the encoder",
    )
