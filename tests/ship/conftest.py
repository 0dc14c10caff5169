"""A small trained run, with images held out of training."""

from __future__ import annotations

from pathlib import Path

import pytest

import longtail


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory) -> Path:
    """Cross-entropy on the embedded set, 0.2 of the training images held out. Tests that write into it copy it first."""
    folder = tmp_path_factory.mktemp("ship") / "run"
    longtail.train(
        "ce",
        data={"source": "fashion-mnist-lt", "validation": 0.2},
        out=folder,
        backbone="resnet8",
        train={"epochs": 2, "batch_size": 64, "lr": 0.1, "precision": "fp32", "accelerator": "cpu"},
    )
    return folder


@pytest.fixture(scope="session")
def onnx_export(trained_run, tmp_path_factory) -> Path:
    """The same as ONNX."""
    pytest.importorskip("onnxscript", reason="needs longtail[export]")
    pytest.importorskip("onnxruntime", reason="needs longtail[export]")
    return longtail.export(trained_run, "onnx", tmp_path_factory.mktemp("ship") / "onnx").folder
