"""What several test files need."""

from __future__ import annotations

import pytest
import torch

# Two cores, many tests: threads of one test would only wait for those of another.
torch.set_num_threads(1)


@pytest.fixture
def photos(tmp_path):
    """A folder of 20 + 6 small RGB images in two classes that a network can tell apart, as train/ and test/."""
    from PIL import Image

    for split, (many, few) in {"train": (16, 4), "test": (3, 3)}.items():
        for name, count, colour in (("cat", many, (200, 60, 60)), ("dog", few, (60, 60, 200))):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16, 16), tuple(channel + i for channel in colour)).save(folder / f"{i}.png")
    return tmp_path / "photos"
