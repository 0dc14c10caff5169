"""The command line: what each wrong request is told, and that the right ones work."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import zlib

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from longtail import __version__
from longtail.cli import shared
from longtail.config import merge
from longtail.engine.run import Run
from longtail.report.console import LiveReporter

FAST = ("epochs=1", "batch_size=4", "precision=fp32", "accelerator=cpu", "backbone=resnet8")


@pytest.fixture
def train(longtail, tmp_path):
    def run(method, *words, out="run"):
        settings = [word for setting in FAST for word in ("--set", setting)]
        return longtail("train", method, *settings, "--out", tmp_path / out, *words)

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on three easily told colours, the folder of its images, and one of its test images."""
    import longtail

    folder = tmp_path_factory.mktemp("trained")
    for split, count in (("train", 8), ("test", 2)):
        for label, colour in (("red", (220, 20, 20)), ("green", (20, 220, 20)), ("blue", (20, 20, 220))):
            place = folder / "photos" / split / label
            place.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (12, 12), tuple(min(255, c + i) for c in colour)).save(place / f"{i}.png")
    settings = {"epochs": 4, "batch_size": 4, "precision": "fp32", "accelerator": "cpu"}
    longtail.train("ce", data=str(folder / "photos"), out=folder / "run", backbone="resnet8", train=settings)
    return folder


def damage(path):
    path.write_bytes(path.read_bytes()[:-40])


# Bad data. Each function spoils the folder of photos; `extra` are words for the command line.


def empty_folder(photos):
    shutil.rmtree(photos)
    photos.mkdir()


def one_class(photos):
    for split in ("train", "test"):
        shutil.rmtree(photos / split / "dog")


def class_without_training_image(photos):
    shutil.rmtree(photos / "train" / "dog")
    (photos / "train" / "dog").mkdir()


def unknown_test_class(photos):
    (photos / "test" / "dog").rename(photos / "test" / "fox")


def truncated_jpeg(photos):
    Image.effect_noise((16, 16), 90).save(photos / "train" / "cat" / "bad.jpg")
    damage(photos / "train" / "cat" / "bad.jpg")


def another_size(photos):
    Image.new("RGB", (20, 20)).save(photos / "train" / "cat" / "3.png")


def not_square(photos):
    for path in photos.rglob("*.png"):
        Image.new("RGB", (16, 12)).save(path)


def another_test_size(photos):
    for path in (photos / "test").rglob("*.png"):
        Image.new("RGB", (20, 20)).save(path)


def nothing(photos):
    pass


def _list(text):
    def write(photos):
        (photos / "list.txt").write_text(text)

    return write


GOOD_LINES = "train/cat/0.png 0\ntrain/dog/0.png 1\n"
BAD_DATA = {
    "empty folder": (empty_folder, (), 2, "No images in folder:{photos}: expected one sub-folder per class"),
    "one class": (one_class, (), 2, "has one class only ('cat'): a classifier needs at least two"),
    "class without image": (
        class_without_training_image,
        (),
        2,
        "Class 'dog' of folder:{photos} (test) is not a class of",
    ),
    "test class unknown": (unknown_test_class, (), 2, "Class 'fox' of folder:{photos} (test) is not a class of"),
    "truncated JPEG": (truncated_jpeg, (), 1, "cannot read image train/cat/bad.jpg: .*--skip-corrupt"),
    "another size": (another_size, (), 2, "3.png has 20 x 20 pixels, expected 16 x 16.*--image-size"),
    "not square": (not_square, (), 2, "has 12 x 16 pixels, expected squares.*--image-size"),
    "another test size": (another_test_size, (), 2, "(test) have 20 x 20 pixels.*training 16 x 16.*--image-size 16"),
    "missing source": (nothing, ("--data", "nowhere"), 2, "Source 'nowhere' is neither a file nor a folder"),
    "unknown kind": (nothing, ("--data", "cifar:x"), 2, "Unknown source kind 'cifar'. Did you mean 'cifar10'?"),
    "imbalance below 1": (nothing, ("--imbalance", "0.5"), 2, "data.imbalance should be greater than or equal to 1"),
    "imbalance unreachable": (nothing, ("--imbalance", "17"), 2, "leaves class 1 with no image: .* at most 16"),
    "imbalance of a tail": (nothing, ("--imbalance", "2"), 2, "class 1 has 4 images and the profile asks for 8"),
    "list without label": (
        _list(GOOD_LINES + "train/cat/1.png\n"),
        ("--data", "{photos}/list.txt"),
        2,
        "list.txt: line 3: no label in 'train/cat/1.png'; expected 'relative/path label'",
    ),
    "label out of range": (
        _list(GOOD_LINES + "train/cat/1.png -2\n"),
        ("--data", "{photos}/list.txt"),
        2,
        "list.txt: line 3: label -2 is out of range",
    ),
    "missing file": (
        _list(GOOD_LINES + "train/cat/none.png 0\n"),
        ("--data", "{photos}/list.txt", "--test", "{photos}/list.txt"),
        1,
        "cannot read image train/cat/none.png: No such file or directory",
    ),
    "one mean for all channels": (
        nothing,
        ("--set", "mean=[0.5]", "--set", "std=[0.5]"),
        2,
        "data.mean has 1 values, but the images of folder:{photos} (train) are RGB: give 3",
    ),
    "no mean": (nothing, ("--set", "mean=[]", "--set", "std=[]"), 2, "data.mean has 0 values"),
    "root unneeded": (
        nothing,
        ("--root", "x"),
        2,
        "--root is for coco: and csv: and list: sources; 'folder:{photos}' is none of these",
    ),
}


def told(text, expected):
    """The message holds each part of `expected` (parts are separated by .*), on one line of errors, and no traceback."""
    assert "Traceback" not in text
    place = 0
    for part in expected.split(".*"):
        place = text.find(part, place)
        assert place >= 0, text
    return True


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(train, photos, tmp_path, case):
    spoil, words, code, message = BAD_DATA[case]
    spoil(photos)
    words = ["--data", photos, *(word.format(photos=photos) for word in words)]
    for _ in range(2):  # the second time too: the first left nothing in the way
        found, out, err = train("ce", *words)
        assert (found, out.count(err.strip().removeprefix("Error: "))) == (code, 0)
        assert told(err, message.format(photos=photos))
    assert not (tmp_path / "run").exists()


BAD_REQUESTS = {
    "method": (("cee",), "Unknown method 'cee'. Did you mean 'ce'?"),
    "no method": ((), "Name a method"),
    "option": (("ce", "--epoch", "3"), "No such option: --epoch.*--epochs"),
    "setting": (("ce", "--set", "epoch=3"), "Unknown option 'epoch'. Did you mean 'epochs'?"),
    "setting of the method": (("ce", "--set", "finetune=maxnorm"), "Unknown option 'finetune'"),
    "no value": (("ce", "--set", "lr"), "--set takes key=value"),
    "wrong type": (("ce", "--set", "lr=fast"), "configuration: train.lr should be a valid number; found 'fast'"),
    "out of bounds": (("ce", "--set", "lr=-1"), "train.lr should be greater than 0; found -1"),
    "method's own type": (("glmc", "--set", "finetune=maxnom"), "finetune should be 'none', 'maxnorm' or"),
    "backbone": (("ce", "--backbone", "resnet33"), "Unknown backbone 'resnet33'. Did you mean 'resnet32'?"),
    "timm model": (("ce", "--backbone", "timm:resnet81"), "Unknown timm model 'resnet81'. Did you mean 'resnet1"),
    "recipe": (("ce", "--recipe", "cifar10-lt-99"), "Unknown recipe 'ce/cifar10-lt-99'. Did you mean"),
    "recipe of another": (("ce", "--recipe", "glmc/cifar10-lt-100"), "is for glmc, not for ce"),
    "stage": (("glmc", "--stages", "trian"), "Unknown stage of glmc with these options 'trian'. Did you mean 'train'?"),
    "augmentation": (("ce", "--set", "augment=flop"), "flop"),
    "start": (("ce", "--from", "nowhere"), "nowhere is not a run folder"),
    "resume": (("--resume", "nowhere"), "nowhere is not a run folder"),
    "command": ("trian", "No such command 'trian'.*Did you mean 'train'?"),
    "accelerator": (("ce", "--set", "accelerator=tpu"), "train.accelerator should be 'auto', 'cpu', 'cuda' or"),
    "batch": (("ce", "--set", "batch_size=0"), "train.batch_size should be greater than or equal to 1"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_request(longtail, tmp_path, monkeypatch, case):
    words, message = BAD_REQUESTS[case]
    monkeypatch.chdir(tmp_path)
    words = ("train", *words) if isinstance(words, tuple) else (words,)
    code, _, err = longtail(*words)
    assert code == 2
    assert told(err, message)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "backbone: resnet8\ntrain: {epochs: many}",
            "mine.yaml: train: epochs should be a valid integer; found 'many'",
        ),
        ("backbone: resnet8\ntrain: {epoch: 3}", "mine.yaml: train: Unknown option 'epoch'. Did you mean 'epochs'?"),
        ("backbone: [resnet8]", "mine.yaml: backbone should be a valid string; found ['resnet8']"),
        ("backbone: resnet8\noptions: {augmen: weak}", "Unknown option 'augmen'. Did you mean 'augment'?"),
        ("backbone: {", "mine.yaml is not valid YAML at line 1"),
        ("- resnet8", "mine.yaml holds list; expected a mapping"),
        (None, "Cannot read {path}: No such file"),
    ],
)
def test_bad_recipe_file(train, photos, tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    code, _, err = train("ce", "--data", photos, "--recipe", path)
    assert code == 2
    assert told(err, message.format(path=path))


def test_recipe_file(train, photos, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("backbone: resnet14\ntrain: {lr: 1e-3, momentum: 0.5}\noptions: {augment: flip}\n")
    assert train("ce", "--data", photos, "--recipe", path, "--set", "momentum=0.7")[0] == 0
    config = Run.open(tmp_path / "run").config()
    assert (config.train.lr, config.train.momentum, config.options["augment"]) == (1e-3, 0.7, "flip")


def test_a_run_folder_in_use(train, photos, tmp_path):
    (tmp_path / "run").mkdir()  # an empty one may be used
    assert train("ce", "--data", photos)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    code, _, err = train("ce", "--data", photos)
    assert code == 2
    assert told(err, "already exists and is not empty: continue it with `longtail train --resume .*another --out")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    code, _, err = train("ce", "--data", photos, out="mine")
    assert code == 2
    assert "--resume" not in err
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_place_that_cannot_be_written(train, photos, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = train("ce", "--data", photos, out="file/run")
    assert code == 1
    assert told(err, "Cannot write {}: Not a directory. .*another --out".format(tmp_path / "file" / "run"))


def test_a_full_disk(photos, tmp_path):
    """A real process that may not write files as large as a checkpoint."""
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)\n"
    script += "from longtail.cli import main; main()"
    words = ["train", "ce", "--data", photos, "--out", tmp_path / "run"]
    words += [word for setting in FAST for word in ("--set", setting)]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert told(done.stderr, "Cannot write {}: File too large. Free some space".format(tmp_path / "run" / "last.ckpt"))
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_not_finite(train, photos, tmp_path):
    code, _, err = train("ce", "--data", photos, "--set", "lr=1e30", "--epochs", "9")
    assert code == 1
    assert told(err, "is not finite.*Try a lower train.lr")
    assert not (tmp_path / "run").exists()  # it was so before the first checkpoint


def test_images_too_small_for_the_backbone(train, photos, tmp_path):
    for path in photos.rglob("*.png"):
        Image.new("RGB", (8, 8)).save(path)
    code, _, err = train("ce", "--data", photos, "--set", "backbone=timm:test_convnext")
    assert code == 2
    assert told(
        err, "Backbone 'timm:test_convnext' cannot take images of 8x8 pixels and 1 channels: .*Resize the images"
    )
    assert not (tmp_path / "run").exists()


def test_a_progress_bar_shows_names_as_they_are():
    file = io.StringIO()
    reporter = LiveReporter(Console(file=file, force_terminal=True, width=200, emoji=False))
    reporter.begin("embedding folder:d[/x]", 1)
    reporter.end()
    assert "embedding folder:d[/x]" in file.getvalue()


def test_every_kind_of_image_trains(train, photos, tmp_path):
    folder = photos / "train" / "cat"
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    Image.fromarray(noise[..., 0].astype(np.uint16) * 256).save(folder / "deep.png")
    Image.fromarray(noise, "CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise, "RGBA").save(folder / "rgba.png")
    frames = [Image.fromarray(noise[..., c]) for c in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    assert train("ce", "--data", photos)[0] == 0
    assert Run.open(tmp_path / "run").results()["data"]["train_images"] == 24


@pytest.mark.parametrize("loader", ["resident", "streaming"])
def test_skip_corrupt_records_what_it_left_out(train, photos, tmp_path, loader):
    truncated_jpeg(photos)
    words = ["--data", photos, "--skip-corrupt", "--set", f"loader={loader}", "--set", "workers=0"]
    assert train("ce", *words)[0] == 0
    assert Run.open(tmp_path / "run").results()["skipped_images"] == ["train/cat/bad.jpg"]


def test_names_are_shown_as_they_are_and_lines_stay_whole(train, longtail, photos, tmp_path, monkeypatch):
    for split in ("train", "test"):
        (photos / split / "dog").rename(photos / split / "[red]")
    truncated_jpeg(photos)
    run = tmp_path / f"[a] b :+1: {'long' * 30}"
    monkeypatch.setattr(shared.console, "_width", 60)
    code, out, _ = train("ce", "--data", photos, "--skip-corrupt", out=run.name)
    assert code == 0
    lines = out.splitlines()
    assert "Left out 1 unreadable image: see results.json" in lines
    following = [f"  longtail eval '{run}'", f"  longtail predict '{run}' IMAGE_OR_FOLDER"]
    assert lines[-4:] == [f"Run folder: {run}", "Next:", *following]
    assert any(line.startswith("data: source") and "subset hash" in line for line in lines)
    assert not [line for line in lines if line != line.rstrip()]
    code, out, _ = longtail("eval", run, "--per-class", "--geometry")
    assert code == 0
    assert out.count("│ [red] ") >= 4
    assert longtail("data", "inspect", photos)[1].count(" [red] ") == 1


@pytest.mark.parametrize("words", [("--json",), ()])
def test_an_evaluation_that_cannot_be_saved_is_shown(longtail, trained, tmp_path, words):
    shutil.copytree(trained / "run", tmp_path / "run")
    saved = tmp_path / "run" / "evaluation-test.json"
    saved.mkdir()
    code, out, err = longtail("eval", tmp_path / "run", *words)
    assert code == 1
    assert "top1" in out
    assert told(err, f"The result above is not saved: cannot write {saved}. ")


def test_resume_of_another_method(train, longtail, photos, tmp_path):
    train("ce", "--data", photos)
    code, _, err = longtail("train", "glmc", "--resume", tmp_path / "run")
    assert code == 2
    assert told(err, "is a run of 'ce', not of 'glmc'")
    code, _, err = longtail("train", "--resume", tmp_path / "run", "--seed", "9")
    assert code == 2
    assert told(err, "--resume")


# A model that is used


def test_predict_csv(longtail, trained):
    code, out, _ = longtail("predict", trained / "run", trained / "photos" / "test", "--top", "2")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["path"] for row in rows] == [str(p) for p in sorted((trained / "photos" / "test").rglob("*.png"))]
    assert list(rows[0]) == ["path", "label_1", "probability_1", "label_2", "probability_2"]
    for row in rows:
        assert 0 <= float(row["probability_2"]) <= float(row["probability_1"]) <= 1


def test_predict_jsonl_into_a_file(longtail, trained, tmp_path):
    image = trained / "photos" / "test" / "red" / "0.png"
    out = tmp_path / "p.jsonl"
    words = ("--format", "jsonl", "--top", "9", "--out", out)
    assert longtail("predict", trained / "run", image, image.parent, *words)[0] == 0
    lines = [json.loads(line) for line in out.open()]
    assert [line["path"] for line in lines] == [str(image), str(image), str(image.with_name("1.png"))]
    assert {guess["label"] for guess in lines[0]["predictions"]} == {"red", "green", "blue"}
    assert sum(guess["probability"] for guess in lines[0]["predictions"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("{tmp}/bad.jpg", "nowhere.png", "--skip-corrupt"), 2, "nowhere.png does not exist"),
        (("{tmp}/bad.jpg", "{tmp}/link.jpg", "--skip-corrupt"), 2, "link.jpg does not exist"),
        (("{tmp}/empty",), 2, "empty holds no images"),
        (("{tmp}/bad.jpg",), 1, "Cannot read {tmp}/bad.jpg: .*--skip-corrupt"),
        (("{tmp}/bad.jpg", "--format", "xml"), 2, "--format is csv or jsonl, not 'xml'"),
        (("{tmp}/bad.jpg", "--top", "0"), 2, "--top"),
        (("{tmp}/bad.jpg", "--batch-size", str(10**20)), 2, "--batch-size"),
    ],
)
def test_bad_predict(longtail, trained, tmp_path, words, code, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    Image.effect_noise((16, 16), 90).save(tmp_path / "bad.jpg")
    damage(tmp_path / "bad.jpg")
    words = [word.format(tmp=tmp_path) for word in words]
    found, _, err = longtail("predict", trained / "run", *words, "--out", tmp_path / "p.csv")
    assert found == code
    assert told(err, message.format(tmp=tmp_path))
    assert "Left out" not in err
    assert not (tmp_path / "p.csv").exists()


def test_predict_skips_what_it_cannot_read(longtail, trained, tmp_path):
    shutil.copytree(trained / "photos" / "test" / "red", tmp_path / "images")
    damage(tmp_path / "images" / "0.png")
    (tmp_path / "images" / "2.png").symlink_to("nowhere.png")
    code, out, err = longtail("predict", trained / "run", tmp_path / "images", "--skip-corrupt")
    assert code == 0
    assert [row["path"] for row in csv.DictReader(io.StringIO(out))] == [str(tmp_path / "images" / "1.png")]
    assert told(err, "Left out: Cannot read {}: ".format(tmp_path / "images" / "0.png"))
    assert told(err, "Left out: Cannot read {}: No such file".format(tmp_path / "images" / "2.png"))


def test_predict_searches_a_folder_as_training_does(longtail, trained, tmp_path):
    shutil.copytree(trained / "photos" / "test" / "red", tmp_path / "images" / "a.jpg")
    (tmp_path / "images" / "a.jpg" / "._0.png").touch()
    (tmp_path / "images" / "a.jpg" / "loop").symlink_to(tmp_path / "images")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "images" / "a.jpg" / "0.png", tmp_path / "elsewhere")
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "a.jpg" / "1.png").rename(tmp_path / "images" / "a.jpg" / "1\udcff.png")
    code, out, _ = longtail("predict", trained / "run", tmp_path / "images")
    assert code == 0
    paths = [row["path"].removeprefix(f"{tmp_path}/images/") for row in csv.DictReader(io.StringIO(out))]
    assert paths == ["a.jpg/0.png", "a.jpg/1\\udcff.png", "linked/0.png"]


def rewrite(**changes):
    """What lays `changes` over a JSON file."""
    return lambda path: path.write_text(json.dumps(merge(json.loads(path.read_text()), changes)))


@pytest.mark.parametrize("command", ["predict", "eval"])
@pytest.mark.parametrize(
    ("file", "spoil", "code", "message"),
    [
        ("model.json", lambda path: path.unlink(), 2, "holds no model.json"),
        ("model.json", lambda path: path.write_text("{"), 1, "is damaged"),
        ("model.json", lambda path: path.write_text("[]"), 1, "is damaged: it holds a list, expected a JSON object"),
        ("model.json", lambda path: path.write_text(path.read_text().replace("resnet8", "resnet14")), 1, "do not fit"),
        ("model.json", rewrite(format=9), 1, "format 9"),
        (
            "model.json",
            rewrite(classes=["red", "blue"], class_counts=[8, 8]),
            1,
            "do not fit its model.json: size mism",
        ),
        ("model.json", rewrite(classes=["red", "blue"]), 1, "is damaged: its classes and class_counts differ"),
        ("model.json", rewrite(preprocessing={"mean": []}), 1, "is damaged: its channels, mean and std do not go"),
        (
            "model.json",
            rewrite(preprocessing={"channels": 2, "mean": [0, 0], "std": [1, 1]}),
            1,
            "is damaged: its chan",
        ),
        (
            "model.json",
            rewrite(preprocessing={"channels": 1, "mean": [0.5], "std": [0.5]}),
            1,
            "do not fit its model.json: size mismatch",
        ),
        ("model.json", rewrite(preprocessing={"image_size": 0}), 1, "is damaged.*image_size should be greater than 0"),
        ("model.json", rewrite(preprocessing={"resize": -1}), 1, "is damaged.*resize should be greater than 0"),
        ("model.safetensors", lambda path: path.unlink(), 1, "is damaged.*model.safetensors"),
        ("model.safetensors", damage, 1, "is damaged"),
    ],
)
def test_damaged_model(longtail, trained, tmp_path, command, file, spoil, code, message):
    shutil.copytree(trained / "run", tmp_path / "run")
    spoil(tmp_path / "run" / file)
    words = [trained / "photos" / "test"] if command == "predict" else []
    found, _, err = longtail(command, tmp_path / "run", *words)
    assert found == code
    assert told(err, message)


def test_eval(longtail, trained, tmp_path):
    results = Run.open(trained / "run").results()
    code, out, _ = longtail("eval", trained / "run", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["metrics"]["top1"] == results["metrics"]["top1"]
    assert {row["class"] for row in found["worst"]} == {"red", "green", "blue"}
    assert found["intervals"]["few"][0] <= found["metrics"]["few"] <= found["intervals"]["few"][1]
    code, out, _ = longtail(
        "eval", trained / "run", "--data", trained / "photos" / "train", "--per-class", "--geometry"
    )
    assert code == 0
    assert "green" in out
    assert "worst classes" in out
    code, _, err = longtail("eval", trained / "run", "--split", "val")
    assert code == 2
    assert told(err, "has no split 'val'; it has train, test")
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    (tmp_path / "other" / "red").mkdir(parents=True)
    (tmp_path / "x.png").rename(tmp_path / "other" / "red" / "x.png")
    code, _, err = longtail("eval", trained / "run", "--data", tmp_path / "other")
    assert code == 2
    assert told(err, "20 x 20 pixels.*12 x 12")


@pytest.mark.parametrize("command", ["eval", "calibrate"])
def test_other_images_are_read_with_the_options_of_a_training(longtail, trained, tmp_path, command):
    rows = [f"test/{name}/{i},x,{name}" for name in ("red", "green", "blue") for i in range(2)]
    (tmp_path / "t.csv").write_text("\n".join(["photo,label,colour", *rows, "test/red/0,x, red"]) + "\n")
    words = [command, trained / "run", "--data", tmp_path / "t.csv", "--root", trained / "photos", "--suffix", ".png"]
    code, out, err = longtail(*words, "--image-column", "photo", "--label-column", "colour")
    assert code == 0, err
    assert "7 images of csv:" in out
    assert "white space around 1 labels" in err  # what the reader had to say is said
    code, _, err = longtail(*words, "--image-column", "photo")
    assert code == 2
    assert told(err, "Class 'x' .*is not a class of the model")
    code, out, _ = longtail(
        command, trained / "run", "--data", trained / "photos", "--classes-at", "leaf", "--splits", "train=train"
    )
    assert code == 0
    assert "24 images of folder:" in out
    code, _, err = longtail(command, trained / "run", "--classes-at", "top", "--data", "x")
    assert code == 2
    assert told(err, "--classes-at takes 1, 2, ... or leaf; found 'top'")
    code, _, err = longtail(command, trained / "run", "--root", "x", "--image-column", "y")
    assert code == 2
    assert told(err, "How to read --data is said (--root and --image-column), but not --data")


@pytest.mark.parametrize("minutes", ["-1", "0", "nan"])
def test_a_time_that_is_none(longtail, small_set, minutes):
    code, _, err = longtail("reproduce", "ce/cifar10-lt-100", "--data", small_set, "--minutes", minutes)
    assert code == 2
    assert told(err, f"--minutes is a number above 0, not {minutes}.")


@pytest.mark.parametrize("seconds", [0.05, 2])  # before the training has begun, and in its midst
def test_a_reproduction_whose_time_is_up_says_how_to_go_on(longtail, small_set, tmp_path, seconds):
    words = ["--data", small_set, "--out", tmp_path, "--minutes", seconds / 60, "--epochs", "99999"]
    for setting in ("imbalance=null", "mean=null", "std=null", "backbone=resnet8", "accelerator=cpu"):
        words += ["--set", setting]
    code, _, err = longtail("reproduce", "ce/cifar10-lt-100", *words)
    assert code == 128 + signal.SIGTERM
    assert told(err, "give the same command again to go on")


def test_demo_looks_at_all_its_folders_first(longtail, tmp_path):
    (tmp_path / "glmc").mkdir()
    code, _, err = longtail("demo", "--out", tmp_path)
    assert code == 2
    assert told(err, "glmc already exists: choose another --out")
    assert not (tmp_path / "ce").exists()


def test_version(longtail):
    assert longtail("--version")[:2] == (0, f"longtail {__version__}\n")


def test_lists(longtail):
    assert "balanced_softmax" in longtail("methods")[1]
    assert "glmc/cifar10-lt-100" in longtail("recipes")[1]
    code, out, _ = longtail("recipes", "ce/cifar10-lt-100")
    assert code == 0
    assert yaml.safe_load(out)["data"]["imbalance"] == 100
    code, _, err = longtail("recipes", "ce/cifar10-lt-10O")
    assert code == 2
    assert "Did you mean 'ce/cifar10-lt-10" in err
    for command in ((), ("train",), ("eval",), ("predict",), ("data", "inspect")):
        code, out, _ = longtail(*command, "--help")
        assert code == 0
        assert "longtail" in out


def test_several_seeds_end_with_mean_and_deviation(longtail, small_set, tmp_path):
    options = ["--backbone", "resnet8", "--epochs", 1, "--seed", 3, "--seeds", 2, "--out", tmp_path / "runs"]
    code, shown, _ = longtail("train", "ce", small_set, *options)
    assert code == 0
    scores = []
    for seed in (3, 4):
        metrics = Run(tmp_path / "runs" / f"seed{seed}").results()["metrics"]
        scores.append(100 * metrics["class_balanced"])
        assert re.search(rf"│ {seed} +│ +{scores[-1]:.2f} │", shown)
    assert f"{statistics.mean(scores):.2f} ± {statistics.stdev(scores):.2f}" in shown


def test_images_of_too_many_pixels_end_in_lines_of_ours(longtail, tmp_path):
    """Pillow warns of the first on the terminal, and refuses the second in words of its own."""
    for side in (10_000, 60_000):
        (tmp_path / "set" / "big").mkdir(parents=True, exist_ok=True)
        Image.new("1", (1, 1)).save(tmp_path / "one.png")
        raw = bytearray((tmp_path / "one.png").read_bytes())
        raw[16:24] = side.to_bytes(4, "big") * 2
        raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
        (tmp_path / "set" / "big" / f"{side}.png").write_bytes(raw)
    (tmp_path / "set" / "small").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "set" / "small" / "1.png")
    code, out, err = longtail("data", "inspect", tmp_path / "set")
    assert code == 0
    assert out.count("that are decoded; shrink it first") == 2
    assert "Warning" not in out + err
