"""What cannot be trained is refused in one line before any image is decoded: one that cannot be would be told of instead."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_second_stages import few_images

import longtail as library


@pytest.fixture
def broken(photos: Path) -> Path:
    """Photographs of which one cannot be decoded, though its header can be read."""
    file = photos / "train" / "cat" / "0.png"
    file.write_bytes(file.read_bytes()[:40])
    return photos


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs to start from: `bcl` on ten classes, and `begun`, the same before its first epoch ended."""
    folder = tmp_path_factory.mktemp("runs")
    few_images(folder / "few.npz")
    data = {"source": str(folder / "few.npz"), "channels": 3}
    train = {"epochs": 1, "batch_size": 64, "eval_every": 2}
    told: dict[str, Any] = {"backbone": "resnet8", "train": train, "report": False}
    library.train("bcl", data=data, out=folder / "bcl", options={"hidden": None}, **told)
    shutil.copytree(folder / "bcl", folder / "begun")
    state = torch.load(folder / "begun" / "last.ckpt")
    state["progress"] |= {"lines": 0, "finished": []}
    torch.save(state, folder / "begun" / "last.ckpt")
    (folder / "empty").mkdir()
    shutil.copy(folder / "bcl" / "config.yaml", folder / "empty")
    return folder


REFUSED = {
    # options that contradict each other
    "ce --set tau=2": "tau has no effect with loss=ce",
    "ce --set mix_alpha=0.5": "mix_alpha has no effect with mix=none",
    "ce --set loss=bce --set classifier=cosine": "needs a bias, and classifier=cosine has none",
    "bce3s --set joint=off --set contrastive=off --set uniform=off": "are all off; leave one on",
    "glmc+maxnorm --set finetune=maxnorm": "by --then and by an option",
    "balanced_softmax+logit_adjustment": "would overshoot",
    # batch norm and one image
    "bcl --set batch_size=1": "batch norm in 'projector' needs more than one image a step: use --set batch_size=2",
    "paco --set batch_size=1": "batch norm in 'projector' needs more than one image a step",
    "proco --set batch_size=1": "batch norm in 'projector' needs more than one image a step",
    "bcl --set batch_size=2 --set devices=2 --set accelerator=cpu": "on each of 2 devices: use --set batch_size=4",
    # too few classes
    "ride --set routers=true": "looks at the 5 highest logits, and there are 2 classes",
    "risda --set risda.head=2": "leaves none that borrow",
    # too many experts
    "ride --set experts=7": "experts should be less than or equal to 6",
    "ride --backbone timm:test_vit --image-size 160": "cannot be built at another width: use a ResNet",
    # teachers and runs to start from
    "ride --set teacher={runs}/bcl": "has other classes than this run",
    "crt --from {runs}/begun": "has not finished an epoch",
    "ce --from {runs}/begun --stages train": "has not finished an epoch",
    "ce --from {runs}/empty --stages train": "has no last.ckpt",
    "ce --from {runs}/nowhere": "is not a run folder",
    "lws --from {runs}/bcl": "has no classifier to go on with",
    "crt --from {runs}/bcl --backbone resnet20": "has another backbone (resnet8)",
    "tau_norm --set tau_norm.tau=null --from {runs}/bcl": "there are none: hold some out",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_work_is_said_before_any_image_is_decoded(words, runs, broken, longtail, tmp_path) -> None:
    told = [word.format(runs=runs) for word in words.split()]
    network = () if "--backbone" in told else ("--backbone", "resnet8")
    code, _, errors = longtail("train", *told, "--data", broken, "--out", tmp_path / "run", *network)
    errors = " ".join(errors.split())
    assert REFUSED[words] in errors
    assert code == (1 if "has not finished an epoch" in errors else 2)
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


def test_images_are_decoded_where_nothing_is_refused(broken, longtail, tmp_path) -> None:
    """So that the tests above can fail."""
    code, _, errors = longtail("train", "ce", "--data", broken, "--out", tmp_path / "run", "--backbone", "resnet8")
    assert code == 1
    assert "0.png" in errors
