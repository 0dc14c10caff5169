"""What a frozen network made of images, kept on disk by the images' content: computed once, by whichever run comes first.

A store is a folder of shards, each written whole: what an interrupted run has computed is there for the next. Its name is
a hash of all that the values depend on beside the image: network, weights, pixels, augmentation.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..data.decode import CorruptImage
from ..data.images import ImageSet
from ..files import write_atomically


def cache_folder() -> Path:
    """Where stores are: LONGTAIL_CACHE, else `longtail` in the user's cache folder."""
    given = os.environ.get("LONGTAIL_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(given or Path(home) / "longtail").expanduser() / "features"


def content_hashes(images: ImageSet) -> np.ndarray:
    """A 64-bit hash of each image's bytes, int64 [N]: enough to tell millions of images apart."""
    hashes = np.empty(len(images), np.int64)
    for i in range(len(images)):
        try:
            raw = images.read(i)
        except CorruptImage:  # which is told when it is to be decoded
            raw = images.key(i).encode()
        content = raw if isinstance(raw, bytes) else repr((raw.shape, raw.dtype)).encode() + raw.tobytes()
        digest = hashlib.blake2b(content, digest_size=8).digest()
        hashes[i] = int.from_bytes(digest, "little", signed=True)
    return hashes


def weights_hash(network: nn.Module) -> str:
    """Of a network's parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Store:
    """Values [...] by the hash of an image's content."""

    def __init__(self, made_of: Mapping[str, Any]) -> None:
        """`made_of`: all that the values depend on, in words."""
        key = hashlib.blake2b(repr(sorted(made_of.items())).encode(), digest_size=16).hexdigest()
        self.folder = cache_folder() / key

    def read(self, hashes: np.ndarray) -> tuple[Tensor | None, np.ndarray]:
        """Values [N, ...] of those of `hashes` [N] that are stored, and whether each is: bool [N].

        None where none is. Rows of what is not stored are left as they are in memory. A damaged shard is removed.
        """
        values: Tensor | None = None
        known = np.zeros(len(hashes), bool)
        order = hashes.argsort(kind="stable")
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                shard = load_file(path)
            except (OSError, SafetensorError):
                path.unlink(missing_ok=True)
                continue
            stored, rows = shard["hashes"].numpy(), shard["values"]
            first = np.searchsorted(hashes[order], stored, "left")
            last = np.searchsorted(hashes[order], stored, "right")
            repeats = last - first
            source = np.repeat(np.arange(len(stored)), repeats)
            within = np.arange(len(source)) - np.repeat(repeats.cumsum() - repeats, repeats)
            target = order[first[source] + within]
            if values is None:
                values = torch.empty(len(hashes), *rows.shape[1:], dtype=rows.dtype)
            values[torch.from_numpy(target)] = rows[torch.from_numpy(source)]
            known[target] = True
        return values, known

    def add(self, hashes: np.ndarray, values: Tensor) -> None:
        """Store the values of some images in a shard of their own."""
        content = save({"hashes": torch.from_numpy(hashes), "values": values.contiguous()})
        name = hashlib.blake2b(hashes.tobytes(), digest_size=8).hexdigest()
        write_atomically(self.folder / f"{name}.safetensors", lambda temporary: temporary.write_bytes(content))
