"""Exported graphs against the run they were made of."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import longtail as package
from longtail.data.sources import open_source
from longtail.errors import LongtailError, UsageError
from longtail.ship import export as export_module
from longtail.ship.export import check_export, export
from longtail.ship.graph import FILES, Graph, write_graph
from longtail.ship.int8 import balanced
from longtail.ship.runtime import Exported

FORMS = tuple(FILES)


@pytest.fixture(autouse=True)
def _packages():
    pytest.importorskip("onnxscript", reason="ONNX export needs longtail[export]")
    pytest.importorskip("onnxruntime", reason="ONNX export needs longtail[export]")


@pytest.fixture(scope="module")
def arrays():
    test = open_source("fashion-mnist-lt").test
    return [np.squeeze(test.read(i)) for i in range(0, 1000, 40)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("preprocess", [False, True])
def test_an_export_predicts_what_the_run_does(trained_run, tmp_path, arrays, form, preprocess):
    result = export(trained_run, form, tmp_path / "out", preprocess=preprocess)
    assert result.check.difference < 1e-4
    assert result.check.agreeing == 1
    assert {file.name for file in result.folder.iterdir()} == {FILES[form], "model.json", "README.md", "results.json"}
    model, run = package.load(result.folder), package.load(trained_run)
    assert isinstance(model, Exported)
    for size in (1, 7):
        for found, expected in zip(model.predict(arrays[:size], 10), run.predict(arrays[:size], 10), strict=True):
            assert found.labels == expected.labels
            assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    wide = torch.tensor(np.asarray(Image.fromarray(arrays[0]).resize((90, 61))))[None, None]
    torch.testing.assert_close(model(wide), run(wide).detach(), rtol=1e-3, atol=1e-3)
    normalised = run.preprocess(wide)
    if preprocess:
        with pytest.raises(UsageError, match="takes uint8 images"):
            model(normalised)
    else:
        torch.testing.assert_close(model(normalised), run(wide).detach(), rtol=1e-3, atol=1e-3)
    with pytest.raises(UsageError, match="class mix of an export is built in"):
        model.predict(arrays[:1], prior="uniform")
    with pytest.raises(UsageError, match="runs on the CPU here"):
        package.load(result.folder, device="cuda")


def test_temperature_and_class_mix_are_built_in(trained_run, tmp_path, arrays):
    folder = export(trained_run, "torch-export", tmp_path / "out", temperature=2.0, prior="uniform").folder
    run, model = package.load(trained_run), package.load(folder)
    images = torch.from_numpy(np.stack(arrays))[:, None]
    counts = torch.tensor(run.description.class_counts)
    expected = run(images).detach() / 2 - (counts / counts.sum()).log() - torch.tensor(10.0).log()
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


def test_what_was_calibrated_is_built_in(trained_run, tmp_path, arrays):
    run = shutil.copytree(trained_run, tmp_path / "run")
    found = package.calibrate(run, prior="uniform")
    result = export(run, "torch-export")
    assert result.folder == run / "torch-export"
    text = (result.folder / "README.md").read_text()
    assert f"temperature {found.temperature:g} built in, class mix built in" in text
    calibrated, exported = package.load(run), package.load(result.folder)
    for a, b in zip(calibrated.predict(arrays, 10), exported.predict(arrays, 10), strict=True):
        assert a.labels == b.labels
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)


def test_int8_is_measured(longtail, trained_run, tmp_path, arrays):
    code, out, err = longtail("export", trained_run, "--int8", "--preprocess", "--out", tmp_path / "out")
    assert code == 0, err
    assert "% of the test split" in out
    description = json.loads((tmp_path / "out" / "model.json").read_text())
    assert description["export"]["int8"] is True
    card = (tmp_path / "out" / "README.md").read_text()
    results = json.loads((trained_run / "results.json").read_text())
    assert f"| top-1 | {100 * results['metrics']['top1']:.2f} |" in card
    model, run = package.load(tmp_path / "out"), package.load(trained_run)
    assert (tmp_path / "out" / "model.onnx").stat().st_size < 0.7 * run.description.parameters * 4
    found, expected = (
        torch.tensor([predictor.logits([predictor.prepare(a)])[0].tolist() for a in arrays])
        for predictor in (model, run)
    )
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.2 * expected.abs().max()


def test_balanced_takes_every_class_first():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 10)
    assert np.bincount(labels[balanced(labels, 12)]).tolist() == [5, 3, 4]
    assert sorted(balanced(labels, 100)) == list(range(63))


@pytest.mark.parametrize(
    ("method", "form"),
    [("glmc", "onnx"), ("bce3s", "torchscript"), ("bcl", "torch-export"), ("arcface", "torchscript")],
)
def test_every_kind_of_deployed_part(method, form, tmp_path, photos):
    """Classifiers of all kinds, and embeddings; 3 channels and a size that is cropped."""
    run = tmp_path / "run"
    backbone = "iresnet18" if method == "arcface" else "resnet8"
    data = {"source": str(photos), "image_size": 20}
    train = {"epochs": 1, "batch_size": 8, "accelerator": "cpu"}
    package.train(method, data=data, out=run, backbone=backbone, train=train)
    result = export(run, form, preprocess=True)
    assert result.check.difference <= result.check.bound
    assert (result.check.agreeing is None) == (method == "arcface")
    assert package.load(result.folder).classifies() == (method != "arcface")


def test_a_graph_that_differs_is_refused(trained_run, tmp_path, monkeypatch):
    predictor = package.load(trained_run)
    graph = Graph(predictor, False, 1.0, None)
    write_graph(graph, "torchscript", tmp_path)
    folder = export(trained_run, "torchscript", tmp_path / "out").folder
    exported = package.load(folder)
    image = np.zeros((28, 28), np.uint8)
    check_export(exported, graph, predictor, [image])
    graph.temperature = 1.01
    with pytest.raises(LongtailError, match="The exported graph differs from the model by"):
        check_export(exported, graph, predictor, [image])
    monkeypatch.setattr(export_module, "BOUND", -1.0)
    with pytest.raises(LongtailError, match="Nothing was written"):
        export(trained_run, "torchscript", tmp_path / "refused")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.ts", "out"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"form": "onx"}, "--format is one of onnx, torchscript, torch-export, not 'onx'"),
        ({"form": "torchscript", "int8": True}, "--int8 quantises an ONNX graph"),
        ({"temperature": 0.0}, "--temperature is 0; expected a number above 0"),
        ({"temperature": float("nan")}, "--temperature is nan"),
        ({"prior": "estimate"}, "predict --prior estimate` tell it first"),
        ({"out": "{run}"}, "already exists: choose another --out"),
        ({"images": ["nowhere"]}, "nowhere does not exist"),
    ],
)
def test_requests_that_cannot_be_met(trained_run, tmp_path, words, message):
    words = {name: trained_run if value == "{run}" else value for name, value in words.items()}
    words["images"] = [tmp_path / name for name in words.get("images", ())]
    with pytest.raises(UsageError, match=message):
        export(trained_run, **{"out": tmp_path / "out", **words})
    assert not (tmp_path / "out").exists()


def test_a_damaged_export(onnx_export, tmp_path):
    folder = shutil.copytree(onnx_export, tmp_path / "out")
    (folder / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(LongtailError, match=r"The model in .*out is damaged: .*Export the run again"):
        package.load(folder)


def test_the_runs_images_are_gone(trained_run, tmp_path, monkeypatch):
    def gone(*_):
        raise UsageError("photos/ does not exist.")

    monkeypatch.setattr(export_module, "images_of", gone)
    with pytest.raises(UsageError, match=r"photos/ does not exist. Give some with --images FOLDER"):
        export(trained_run, "torchscript", tmp_path / "out")
    Image.new("L", (50, 40), 99).save(tmp_path / "a.png")
    assert export(trained_run, "torchscript", tmp_path / "out", images=[tmp_path]).check.images == 1


def test_a_missing_package_is_named(trained_run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"needs the package onnxscript: pip install 'longtail\[export\]'"):
        export(trained_run, "onnx", tmp_path / "out")


def test_what_a_format_cannot_express(trained_run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.jit, "trace", lambda *_: 1 / 0)
    with pytest.raises(LongtailError, match=r"cannot be exported as torchscript: division by zero. Another --format"):
        export(trained_run, "torchscript", tmp_path / "out")
    assert not list(tmp_path.iterdir())
