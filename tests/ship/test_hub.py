"""Models from and to the Hugging Face Hub, with the hub's client replaced by a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import longtail as package
from longtail.errors import LongtailError, UsageError

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs longtail[hub]")


def test_there_and_back(hub, longtail, trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    package.calibrate(run)
    code, out, err = longtail("push", run, "someone/fashion", "--private")
    assert code == 0, err
    assert "Uploaded to hub://someone/fashion (private)" in out
    files = {"model.json", "model.safetensors", "calibration.json", "README.md"}
    assert {file.name for file in (hub / "someone" / "fashion").iterdir()} == files
    card = (hub / "someone" / "fashion" / "README.md").read_text()
    assert "# ce on fashion-mnist-lt" in card
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    assert f"| few | {100 * metrics['few']:.2f} |" in card
    there, here = package.load("hf:someone/fashion@v2"), package.load(run)
    assert there.calibration == here.calibration
    assert all((a == b).all() for a, b in zip(there.parameters(), here.parameters(), strict=True))


def test_exports(hub, trained_run, onnx_export, tmp_path):
    package.push_to_hub(onnx_export, "hf:someone/onnx")
    assert package.load("hf:someone/onnx").export.form == "onnx"
    program = package.export(trained_run, "torchscript", tmp_path / "ts").folder
    with pytest.raises(UsageError, match="push the run itself, or an ONNX export"):
        package.push_to_hub(program, "someone/ts")
    shutil.copytree(program, hub / "someone" / "ts")
    with pytest.raises(UsageError, match="only loaded from a folder of your own"):
        package.load("hf:someone/ts")


def test_what_is_not_there(hub, tmp_path, monkeypatch):
    with pytest.raises(LongtailError, match=r"Cannot reach the Hugging Face Hub, and hf:a/b was not downloaded before"):
        package.load("hf:a/b")
    (hub / "a" / "c").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"hf:a/c holds no model.json: it is no model of longtail"):
        package.load("hf:a/c")
    with pytest.raises(UsageError, match=r"holds no model.json"):
        package.push_to_hub(tmp_path, "a/b")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: 1 / 0)
    with pytest.raises(UsageError, match="Cannot get hf:a/c: division by zero"):
        package.load("hf:a/c")


def test_no_code_of_others_runs(hub, trained_run):
    folder = Path(shutil.copytree(trained_run, hub / "a" / "b"))
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(description | {"method": "os:system"}))
    with pytest.raises(UsageError, match="hf:a/b asks for the code of 'os:system'"):
        package.load("hf:a/b")


def test_a_refused_push(hub, trained_run, monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *_, **__: 1 / 0)
    with pytest.raises(UsageError, match=r"Cannot push to 'a/b': division by zero. Is it user/name"):
        package.push_to_hub(trained_run, "a/b")
