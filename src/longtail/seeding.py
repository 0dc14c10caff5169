"""Every random draw of a run follows from its one seed, by name.

A draw is made with a generator seeded from the run's seed and the draw's place (epoch, step, purpose), never from one
that has been running since the start. That is what makes a resumed run equal to an uninterrupted one: there is no
generator state to save.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *place: int | str) -> int:
    """A 63-bit seed for the draw at `place`, for instance ``derive_seed(0, "augment", epoch, step, rank)``."""
    digest = hashlib.blake2b(repr((seed, *place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *place: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded for the draw at `place`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *place))


def seed_layers(seed: int, device: torch.device) -> None:
    """Seed the global generators that a network's layers (dropout, for one) draw from on the CPU and on `device`.

    `torch.manual_seed` writes down the call stack for every other kind of device, which costs more than a small layer.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
