"""predictions.parquet: what it holds, that it is read back, and what an old or a damaged one is told."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from longtail.classes import Classes
from longtail.errors import LongtailError, UsageError
from longtail.evaluation.predictions import TOP, condense, read, write

CLASSES = Classes(tuple(f"class {c}" for c in range(12)), tuple(range(240, 0, -20)))


@pytest.fixture
def scored():
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 12, generator=draw)
    logits[7, 3:6] = 12.0  # equally good
    return torch.randint(0, 12, (50,), generator=draw), logits


@pytest.fixture
def folder(tmp_path, scored):
    labels, logits = scored
    rows = {name: value.numpy() for name, value in condense(torch.arange(50), labels, logits, True).items()}
    write(tmp_path / "predictions.parquet", rows, [f"{i}.png" for i in range(50)], CLASSES, "test")
    return tmp_path


def test_what_is_written_is_read_back(folder, scored):
    labels, logits = scored
    found = read(folder)
    chances = logits.double().softmax(1)
    assert (found.classes, found.split, found.images[3]) == (CLASSES, "test", "3.png")
    assert (found.labels == labels.numpy()).all()
    assert (found.predicted == logits.argmax(1).numpy()).all()
    assert found.probability == pytest.approx(chances.max(1).values.numpy())
    assert found.label_probability == pytest.approx(chances[torch.arange(50), labels].numpy())
    assert found.logits == pytest.approx(logits.numpy(), rel=1e-3)
    assert found.hits.sum() == (found.predicted == found.labels).sum()
    assert found.tested.tolist() == np.bincount(labels, minlength=12).tolist()


def test_others_can_read_it(folder, scored):
    _, logits = scored
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    chances = logits.double().softmax(1).numpy()
    for row, p in zip(rows, chances, strict=True):
        best = np.argsort(-p, kind="stable")[:TOP]
        assert row["top_labels"] == [CLASSES.names[c] for c in best]
        assert row["top_probabilities"] == pytest.approx(p[best])
        assert row["prediction"] == row["top_labels"][0]
        assert len(row["logits"]) == 12


def test_confusions_are_the_off_diagonal_of_the_matrix(folder):
    found = read(folder)
    matrix = np.zeros((12, 12), int)
    np.add.at(matrix, (found.labels, found.predicted), 1)
    np.fill_diagonal(matrix, 0)
    pairs, times = found.confusions
    assert {(a, b): n for (a, b), n in zip(pairs.tolist(), times.tolist(), strict=True)} == {
        (a, b): matrix[a, b] for a, b in np.argwhere(matrix).tolist()
    }
    assert (np.diff(times) <= 0).all()


def test_a_file_of_an_earlier_version_is_read_with_the_model_beside_it(folder):
    path = folder / "predictions.parquet"
    table = pq.read_table(path).select(["image", "label", "prediction", "probability", "label_probability"])
    pq.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(LongtailError, match=r"does not name the classes, and there is no model\.json"):
        read(folder)
    (folder / "model.json").write_text(json.dumps({"classes": CLASSES.names, "class_counts": CLASSES.counts}))
    (folder / "results.json").write_text(json.dumps({"split": "test"}))
    found = read(folder)
    assert (found.classes, found.logits) == (CLASSES, None)
    (folder / "model.json").write_text(json.dumps({"classes": list("0123456789ab"), "class_counts": CLASSES.counts}))
    with pytest.raises(LongtailError, match="names classes that the model"):  # trained without class names
        read(folder)


def test_what_is_missing_or_damaged_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"has no predictions\.parquet"):
        read(tmp_path)
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(LongtailError, match="is damaged"):
        read(tmp_path)


def test_many_classes_keep_no_scores(tmp_path):
    kept = condense(torch.arange(2), torch.tensor([0, 1]), torch.randn(2, 12), False)
    assert "logits" not in kept
    write(tmp_path / "predictions.parquet", {n: v.numpy() for n, v in kept.items()}, ["a", "b"], CLASSES, "val")
    assert read(tmp_path).logits is None
    assert pa.types.is_string(pq.read_schema(tmp_path / "predictions.parquet").field("label").type)


def test_mistakes_in_plain_numbers(folder):
    found = read(folder)
    told = found.mistakes(most=3)
    assert json.loads(json.dumps(told))
    pairs, times = found.confusions
    assert [row["images"] for row in told["confusions"]] == times[:3].tolist()
    assert told["confusions"][0]["label"] == CLASSES.names[pairs[0, 0]]
    ends = [row["interval"][1] for row in told["worst"]]
    assert ends == sorted(ends)
    low, high = told["intervals"]["class_balanced"]
    assert low < np.nanmean(found.accuracy) < high
    assert set(told["intervals"]) == {"class_balanced", "many", "medium", "few"}
