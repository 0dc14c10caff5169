"""A small trained network, in a file, and where stores go."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from longtail.models import build_backbone

PHOTOS = Path(__file__).parents[1] / "data" / "clothing"
SMALL = "timm:test_efficientnet"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Each test has a store of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LONGTAIL_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weights for `SMALL` that stand in for trained ones."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    state = build_backbone(SMALL).state_dict()
    safetensors.torch.save_file({f"backbone.{name}": value for name, value in state.items()}, path)
    return path


@pytest.fixture
def settings(weights):
    """What a quick fine-tuning of `SMALL` on the photographs takes; without workers, which take longer to start."""
    return {
        "backbone": SMALL,
        "weights": str(weights),
        "data": {"source": str(PHOTOS), "image_size": 32, "workers": 0},
        "train": {"epochs": 2, "batch_size": 32, "lr": 0.01, "precision": "fp32"},
    }
