"""`hf:owner/name[@revision]`: the files of a model on the Hugging Face Hub, only those that are read."""

import pathlib
import re

from clipjax.errors import UserError

PREFIX = "hf:"

_DESCRIPTIONS = (
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
)
# The first set of which the repository has something is all that is fetched: many hold the same weights three times.
# open_clip's come first: beside them, model.safetensors may be timm's image tower alone.
_WEIGHTS = (
    ("open_clip_model.safetensors",),
    ("open_clip_pytorch_model.*",),
    ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"),
    ("flax_model.msgpack", "flax_model-*.msgpack", "flax_model.msgpack.index.json"),
)
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
# huggingface_hub's exceptions, and those of the HTTP library under it, by name: both change their modules
_REASONS = {
    "GatedRepoError": "its owner must grant you access: ask for it on the model's page, then `hf auth login`",
    "RepositoryNotFoundError": "no such model, or one that you may not see: check the name, or `hf auth login`",
    "RevisionNotFoundError": "it has no such revision",
    "LocalEntryNotFoundError": "it cannot be reached and is not in the local cache: check the network",
    "IncompleteSnapshotError": "it cannot be reached and the local cache has only a part of it: check the network",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set and it is not in the local cache",
    "ConnectError": "the Hub cannot be reached: check the network",
    "ConnectionError": "the Hub cannot be reached: check the network",
}


def fetch(name: str) -> pathlib.Path:
    """The local folder of `hf:owner/name[@revision]`, downloaded unless it is in the Hub's cache already.

    Raises UserError, one line, for a malformed name, an absent library, and whatever the Hub or the network refuses.
    """
    found = _NAME.fullmatch(name.removeprefix(PREFIX))
    if not found:
        raise UserError(f"{name}: not a model on the Hub. Write hf:owner/name or hf:owner/name@revision.")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{name}: needs huggingface_hub. Install it with `pip install clipjax[hub]`.") from None
    repository, revision = found.groups()
    folder = pathlib.Path()
    try:
        for weights in _WEIGHTS:
            folder = pathlib.Path(
                huggingface_hub.snapshot_download(
                    repository, revision=revision, allow_patterns=[*_DESCRIPTIONS, *weights]
                )
            )
            if any(item for pattern in weights for item in folder.glob(pattern)):
                return folder
    except Exception as error:  # what a network and two libraries may raise has no common class
        raise UserError(f"{name}: {_reason(error)}.") from None
    raise UserError(f"{name}: has no weights that can be read (looked for {_listed()}).")


def _reason(error: Exception) -> str:
    for kind in type(error).__mro__:
        if kind.__name__ in _REASONS:
            return _REASONS[kind.__name__]
    first = str(error).strip().partition("\n")[0].rstrip(".")
    return f"cannot be fetched ({type(error).__name__}: {first:.200})"


def _listed() -> str:
    return ", ".join(weights[0] for weights in _WEIGHTS)
