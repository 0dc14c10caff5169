"""`longtail verify` against the same figures worked out by hand from the embeddings, and what wrong requests are told."""

from __future__ import annotations

import functools
import itertools
import json
import pickle
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import longtail
from longtail.data.recordio import write_recordio
from longtail.engine.deploy import load
from longtail.engine.prepare import choose_images
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run
from longtail.errors import LongtailError, UsageError
from longtail.faces.lists import read_ijb
from longtail.faces.verify import _embed, _score_templates, verify

TRAINED = {"Ann": 6, "Bo": 5, "Cy_Lee": 4, "Di": 1}
TESTED = ("Eve_Fox", "Flo", "Gus")


def draw_person(folder, name, count, rng):
    """Images named as LFW's: noise around a colour of the person's own."""
    (folder / name).mkdir(parents=True)
    colour = rng.uniform(60, 190, 3)
    for i in range(1, count + 1):
        pixels = np.clip(colour + rng.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{name}_{i:04d}.png")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A run of two epochs on the folder `train`; `test` and `others` have other people; lists of pairs."""
    folder, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    for name, count in TRAINED.items():
        draw_person(folder / "train", name, count, rng)
    for name in TESTED:
        draw_person(folder / "test", name, 4, rng)
    for i in range(8):
        draw_person(folder / "others", f"Stranger_{i}", 2, rng)
    lines = ["2\t2"]
    for first, second in ((1, 2), (3, 4)):
        lines += [f"{name}\t{first}\t{second}" for name in TESTED[:2]]
        lines += [f"{TESTED[0]}\t{first}\t{name}\t{second}" for name in TESTED[1:]]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    longtail.train(
        "cosface_epl",
        data={"source": str(folder / "train"), "validation": 0.3},
        out=folder / "run",
        backbone="iresnet18",
        train={"epochs": 2, "batch_size": 4, "precision": "fp32", "accelerator": "cpu", "lr": 0.02},
        options={"start_epoch": 2},
    )
    return folder


@pytest.fixture
def command(longtail):
    """Run `longtail verify`; gives its exit code, output and errors."""
    return functools.partial(longtail, "verify")


cached_load = functools.cache(load)


def embedding(faces, path):
    """By hand: the features of the pixels as they are, plus those of the mirrored ones; not normalised."""
    model = cached_load(faces / "run")
    pixels = model.description.preprocessing
    image = (np.asarray(Image.open(path)) / 255 - pixels.mean) / pixels.std
    both = np.stack([image, image[:, ::-1]]).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        return model.method.backbone(torch.from_numpy(both)).double().sum(0).numpy()


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def lfw_scores(faces):
    scores = []
    for line in (faces / "pairs.txt").read_text().splitlines()[1:]:
        fields = line.split("\t")
        ends = [(fields[0], fields[1]), (fields[-2] if len(fields) == 4 else fields[0], fields[-1])]
        a, b = (embedding(faces, faces / "test" / name / f"{name}_{int(i):04d}.png") for name, i in ends)
        scores.append(cosine(a, b))
    return np.array(scores)


def best_on_the_other_fold(scores, same):
    """Accuracy of each half at a threshold, half-way between two scores, that is most accurate on the other half."""
    accuracies = []
    for judged in (slice(0, 4), slice(4, 8)):
        other = slice(4, 8) if judged.start == 0 else slice(0, 4)
        values = np.sort(scores[other])[::-1]
        thresholds = [np.inf, *((values[:-1] + values[1:]) / 2), values[-1]]
        best = max(thresholds, key=lambda t: (np.mean((scores[other] >= t) == same[other]), t))
        accuracies.append(np.mean((scores[judged] >= best) == same[judged]))
    return accuracies


def test_pairs(faces, tmp_path):
    result = verify(faces / "run", pairs=faces / "pairs.txt", images=str(faces / "test"), roc=tmp_path / "roc.png")
    (figures,) = result["sets"].values()
    same = np.array([True, True, False, False] * 2)
    accuracies = best_on_the_other_fold(lfw_scores(faces), same)
    assert figures["accuracy"] == pytest.approx(np.mean(accuracies))
    assert figures["standard_error"] == pytest.approx(np.std(accuracies, ddof=1) / np.sqrt(2))
    assert (figures["same"], figures["different"], figures["folds"]) == (4, 4, 2)
    assert set(figures["tar"].values()) == {None}  # 4 impostors cannot show 1 in 10
    assert Image.open(tmp_path / "roc.png").format == "PNG"


def test_images_of_a_parquet_file_are_found_by_their_name_column(faces, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted((faces / "test").rglob("*.png"))
    image = [{"bytes": file.read_bytes(), "path": None} for file in files]
    table = pa.table({"image": image, "name": [f.stem for f in files], "label": [f.parent.name for f in files]})
    pq.write_table(table, tmp_path / "faces.parquet")
    found = [
        verify(faces / "run", pairs=faces / "pairs.txt", images=str(source))["sets"]
        for source in (faces / "test", tmp_path / "faces.parquet")
    ]
    assert found[0] == found[1]


def test_tar_of_a_bin_set_and_its_agreement_with_the_same_pairs_as_files(faces, tmp_path):
    files = sorted((faces / "test").rglob("*.png"))
    pairs = list(itertools.combinations(files, 2))
    same = [a.parent == b.parent for a, b in pairs]
    encoded = [file.read_bytes() for pair in pairs for file in pair]
    (tmp_path / "x.bin").write_bytes(pickle.dumps((encoded, same)))
    (figures,) = verify(faces / "run", bins=[tmp_path / "x.bin"])["sets"].values()

    vectors = {file: embedding(faces, file) for file in files}
    scores = np.array([cosine(vectors[a], vectors[b]) for a, b in pairs])
    impostors = np.sort(scores[~np.array(same)])[::-1]
    allowed = len(impostors) // 10  # this many impostors may pass at FAR 1e-1
    expected = np.mean(scores[np.array(same)] > impostors[allowed])
    assert len(impostors) == 48
    assert figures["tar"]["1e-1"] == pytest.approx(expected)
    assert figures["tar"]["1e-2"] is None
    assert figures["folds"] == 10


def test_templates_pool_media_first(faces, tmp_path):
    """Template 1: two frames of one video and a photo, of Eve; 2 and 3: a photo each, of Eve and of Flo."""
    a, b, c, d = (f"Eve_Fox/Eve_Fox_000{i}.png" for i in (1, 2, 3, 4))
    other = "Flo/Flo_0001.png"
    (tmp_path / "tid").write_text(f"{a} 1 7\n{b} 1 7\n{c} 1 8\n{d} 2 9\n{other} 3 10\n")
    (tmp_path / "pairs").write_text("1 2 1\n1 3 0\n")
    (figures,) = verify(
        faces / "run", pairs=tmp_path / "pairs", templates=tmp_path / "tid", images=str(faces / "test")
    )["sets"].values()
    assert figures["accuracy"] is None  # one fold has no others to choose a threshold on
    assert (figures["same"], figures["different"]) == (1, 1)

    scores, _, _ = _score_templates(
        lambda images: _embed(cached_load(faces / "run"), images, 2, Reporter()),
        faces / "test",
        read_ijb(tmp_path / "tid", tmp_path / "pairs"),
    )
    e = {name: embedding(faces, faces / "test" / name) for name in (a, b, c, d, other)}
    pooled = (e[a] + e[b]) / 2 + e[c]
    assert scores == pytest.approx([cosine(pooled, e[d]), cosine(pooled, e[other])], abs=1e-5)


def test_identification_among_distractors(faces):
    found = verify(faces / "run", images=str(faces / "test"), distractors=str(faces / "others"))["identification"]
    probes = {name: [embedding(faces, file) for file in sorted((faces / "test" / name).iterdir())] for name in TESTED}
    others = [embedding(faces, file) for file in sorted((faces / "others").rglob("*.png"))]
    hits = []
    for vectors in probes.values():
        for a, b in itertools.permutations(vectors, 2):
            hits.append(cosine(a, b) > max(cosine(a, other) for other in others))
    assert found["rank1"] == pytest.approx(np.mean(hits))
    assert (found["probes"], found["distractors"]) == (12, 16)
    assert found["tar"] == {"1e-4": None, "1e-5": None, "1e-6": None}


def test_accuracy_by_shots_is_that_of_the_nearest_class_mean(faces):
    shots = verify(faces / "run", shots=True)["shots"]
    config = Run.open(faces / "run").config()
    subset = choose_images(config.data, config.seed)

    def units(images):
        vectors = [embedding(faces, faces / "train" / images.key(i).split("train/")[-1]) for i in range(len(images))]
        return np.stack([v / np.linalg.norm(v) for v in vectors])

    train, held_out = subset.train, subset.held_out["val"]
    means = np.stack([units(train)[train.labels == c].mean(0) for c in range(len(TRAINED))])
    right = (units(held_out) @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(1) == held_out.labels
    assert shots["images"] == len(held_out) > 2
    assert shots["top1"] == pytest.approx(right.mean())
    by_class = [right[held_out.labels == c].mean() for c in range(len(TRAINED)) if (held_out.labels == c).any()]
    assert shots["few"] == pytest.approx(np.mean(by_class))
    assert shots["many"] is None


def test_output_for_people_and_as_json(faces, command):
    words = (faces / "run", "--pairs", faces / "pairs.txt", "--images", faces / "test")
    code, shown, _ = command(*words)
    assert code == 0
    assert "4 same, 4 different" in shown
    assert "TAR at FAR 1e-6" in shown
    assert "not measurable" in shown
    code, printed, _ = command(*words, "--json")
    assert code == 0
    assert json.loads(printed) == verify(faces / "run", pairs=faces / "pairs.txt", images=str(faces / "test"))


# Bad input: what is asked for, its exit code, and what the message says.
REQUESTS = [
    ([], "Nothing to verify"),
    (["--pairs", "pairs.txt"], "need --images"),
    (["--distractors", "others"], "need --images"),
    (["--templates", "pairs.txt", "--images", "test", "--shots"], "--templates needs --pairs"),
    (["--templates", "t", "--pairs", "pairs.txt", "--images", "none"], "--images none is not a folder"),
    (["--shots", "--roc", "roc.png"], "give one of them"),
    (["--pairs", "none.txt", "--images", "test"], "none.txt does not exist"),
    (["--pairs", "pairs.txt", "--images", "others"], "pairs.txt:2: image 'Eve_Fox_0001' is not among the 16 images"),
    (["--pairs", "malformed.txt", "--images", "test"], "malformed.txt:2: expected 'name i j', found 'Eve_Fox 1'"),
    (["--bin", "hostile.bin"], "hostile.bin is no verification set: it asks for"),
    (["--images", "single", "--distractors", "others"], "a person with at least two images"),
    (["--images", "test", "--distractors", "test"], "3 people of .* are among the distractors .*, first 'Eve_Fox'"),
]


class _Hostile:
    def __reduce__(self):
        return sys.exit, (99,)


@pytest.mark.parametrize(("words", "message"), REQUESTS, ids=lambda value: value if isinstance(value, str) else None)
def test_wrong_requests(words, message, faces, tmp_path, command, monkeypatch):
    for name in ("test", "others", "pairs.txt"):
        (tmp_path / name).symlink_to(faces / name)
    (tmp_path / "malformed.txt").write_text("1 1\nEve_Fox 1\nEve_Fox 1 Flo 1\n")
    (tmp_path / "hostile.bin").write_bytes(pickle.dumps(([b"a", b"b"], [True], _Hostile())))
    for person in ("Flo", "Gus"):
        (tmp_path / "single" / person).mkdir(parents=True)
        shutil.copy(faces / "test" / person / f"{person}_0001.png", tmp_path / "single" / person)
    monkeypatch.chdir(tmp_path)
    code, _, errors = command(faces / "run", *words)
    assert code == 2
    assert re.search(message, errors), errors


def test_an_image_that_cannot_be_read_is_named(faces, tmp_path, command):
    shutil.copytree(faces / "test", tmp_path / "test")
    (tmp_path / "test" / "Flo" / "Flo_0002.png").write_bytes(b"no image")
    code, _, errors = command(faces / "run", "--pairs", faces / "pairs.txt", "--images", tmp_path / "test")
    assert code == 1
    assert "Flo/Flo_0002.png: not an image" in errors


def test_embeddings_of_zero_length_are_not_compared(faces, tmp_path, command):
    run = tmp_path / "run"
    shutil.copytree(faces / "run", run)
    weights = load_file(run / "model.safetensors")
    for part in ("shift.weight", "shift.bias", "shift.running_mean", "linear.weight", "linear.bias"):
        weights[f"backbone.pool.{part}"].zero_()
    save_file(weights, run / "model.safetensors")
    code, _, errors = command(run, "--pairs", faces / "pairs.txt", "--images", faces / "test")
    assert code == 1
    assert "10 of 10 embeddings cannot be compared, first that of 'Eve_Fox/Eve_Fox_0001.png': its length is 0" in errors


def test_runs_without_held_out_images_have_no_shots(faces, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(faces / "run", run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("validation: 0.3", "validation: 0.0"))
    (run / "environment.json").unlink()  # which tells that the images are others by now
    with pytest.raises(UsageError, match="held out no images"):
        verify(run, shots=True)


def test_face_models_hold_the_backbone_alone_and_say_so_when_asked_for_classes(faces, monkeypatch):
    assert {name.split(".")[0] for name in load_file(faces / "run" / "model.safetensors")} == {"backbone"}
    with pytest.raises(UsageError, match="gives embeddings, not classes"):
        longtail.load(faces / "run").predict(faces / "test" / "Flo" / "Flo_0001.png")
    with pytest.raises(UsageError, match="longtail verify"):
        longtail.evaluate(faces / "run")


SMALL = {"epochs": 1, "batch_size": 4, "precision": "fp32", "accelerator": "cpu"}


def test_class_names_can_be_left_out_of_the_model_file(faces, tmp_path):
    data = {"source": str(faces / "train"), "validation": 0.0}
    for out, keep in (("named", True), ("nameless", False)):
        longtail.train("ce", data=data, out=tmp_path / out, backbone="resnet8", train=SMALL, class_names=keep)
    assert "Cy_Lee" in (tmp_path / "named" / "model.json").read_text()
    assert not any(name in (tmp_path / "nameless" / "model.json").read_text() for name in TRAINED)
    assert longtail.load(tmp_path / "nameless").classes == ("0", "1", "2", "3")


def test_recordio_trains_and_bad_files_are_refused(faces, tmp_path):
    files = sorted((faces / "train").rglob("*.png"))
    people = list(TRAINED)
    rec = tmp_path / "train.rec"
    write_recordio(rec, [(file.read_bytes(), people.index(file.parent.name)) for file in files])
    data = {"source": str(rec), "validation": 0.0}
    results = longtail.train("arcface", data=data, out=tmp_path / "run", backbone="resnet8", train=SMALL)
    assert results["data"]["train_images"] == sum(TRAINED.values())
    assert load(tmp_path / "run").description.class_counts == tuple(TRAINED.values())

    index = rec.with_suffix(".idx")
    lines = index.read_text().splitlines()
    for line, message in (("3\t99999999", "the file ends at byte"), ("3\t5", "no record begins there")):
        index.write_text("\n".join([*lines[:3], line, *lines[4:]]) + "\n")
        with pytest.raises(LongtailError, match=message) as error:
            longtail.train("arcface", data=data, out=tmp_path / "bad", backbone="resnet8", train=SMALL)
        assert error.value.exit_code == 2
