"""The benchmark scripts run, and their figures are of what they say."""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks import (
    compare,
    converged,
    faces,
    gpu,
    identities,
    loss_memory,
    memory,
    processes,
    scale,
    startup,
    streaming,
    throughput,
)
from benchmarks.measuring import add_to_record, provenance, resident_bytes
from longtail.api import make_config
from longtail.config import merge
from longtail.errors import LongtailError, UsageError
from longtail.report.comparison import compare as compare_runs

SMALL = ["--backbone", "resnet8", "--batch", "8", "--device", "cpu"]


@pytest.fixture
def measured(tmp_path):
    def run(*arguments):
        out = tmp_path / "throughput.json"
        throughput.main([*SMALL, "--steps", "2", "--rounds", "2", "--out", str(out), *arguments])
        return json.loads(out.read_text())["results"]

    return run


def test_bare_network_sees_the_images_that_the_method_feeds(measured):
    glmc, bce3s = measured("--method", "glmc", "bce3s")
    assert glmc["forward_shapes"] == [[8, 3, 32, 32]] * 2
    assert bce3s["forward_shapes"] == [[24, 3, 32, 32]]
    # the same network per forward image: two views of an image against three, whatever else the methods do
    assert bce3s["flops_per_image"] == pytest.approx(1.5 * glmc["flops_per_image"], rel=1e-6)


def test_reference_loop_takes_turns_with_the_others(measured):
    (result,) = measured("--method", "bcl", "--reference", "--workers", "0")
    assert {name: len(times) for name, times in result["seconds"].items()} == {"loop": 2, "bare": 2, "reference": 2}
    slow, fast = result["seconds"]["reference"], result["seconds"]["loop"]
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    assert [result["loop_over_reference"][key] for key in ("min", "max")] == pytest.approx(ratios)
    assert result["peak_memory_gb"].keys() == result["seconds"].keys()
    # each has imported PyTorch; the bare network of 8 small images takes little more
    assert (
        0.1 < result["peak_memory_gb"]["bare"] < min(result["peak_memory_gb"][part] for part in ("loop", "reference"))
    )
    assert sum(result["phases"].values()) == pytest.approx(1)
    assert len(result["phases"]) == 5


def test_data_with_too_few_steps_is_refused():
    with pytest.raises(UsageError, match="8 steps are needed"):
        throughput.main(
            [*SMALL, "--method", "ce", "--steps", "2", "--rounds", "2", "--data", "fashion-mnist-lt", "--batch", "2000"]
        )


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (throughput, "--steps 0"),
        (throughput, "--rounds 0"),
        (scale, "--classes 1"),
        (scale, "--images 0"),
        (processes, "--rounds 0"),
        (processes, "--batch 3"),
        (identities, "--steps 0"),
        (identities, "--samples 2"),
    ],
)
def test_measures_that_are_none_are_refused(module, words):
    with pytest.raises(UsageError, match=words.split()[0]):
        module.main(words.split())


def test_processes_tells_of_wrong_data_once():
    with pytest.raises(UsageError, match="Source 'nope' is neither a file nor a folder"):
        processes.main(["--data", "nope"])


def test_only_the_whole_measurement_of_identities_replaces_the_figures_of_the_pages(tmp_path, monkeypatch):
    figures = {"median_step_s": 1.0, "peak_memory_gb": 1.0}
    monkeypatch.setattr(identities, "in_own_process", lambda *_: figures)
    monkeypatch.setattr(identities, "RESULTS", tmp_path / "identities.json")
    identities.main(["--identities", "100"])
    assert not identities.RESULTS.exists()
    identities.main([])
    assert len(json.loads(identities.RESULTS.read_text())["cases"]) == 6


def test_memory_of_the_losses_is_written_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(loss_memory, "CLASSES", (10,))
    monkeypatch.setattr(loss_memory, "LOSSES", {"joint": loss_memory.LOSSES["joint"]})
    committed = loss_memory.RESULTS.read_text()
    loss_memory.main(["--out", str(tmp_path / "memory.json")])
    rows = json.loads((tmp_path / "memory.json").read_text())["rows"]
    assert [row["formula"] for row in rows] == ["longtail", "plain"]
    assert loss_memory.RESULTS.read_text() == committed


def test_memory_is_the_peak_of_the_process(tmp_path):
    data, out = tmp_path / "images.npz", tmp_path / "memory.json"
    throughput.write_synthetic(data, 64)
    peak = resident_bytes("VmHWM") + (200 << 20)
    _ = b"x" * (peak - resident_bytes("VmRSS"))
    del _
    memory.main(["--backbone", "resnet8", "--data", str(data), "--out", str(out)])
    record = json.loads(out.read_text())
    assert record["images"] == {"train_images": 64, "test_images": 1024}
    assert record["peak_resident_gb"] * 1e9 == pytest.approx(peak, rel=0.05)


def test_faces_trains_on_people_who_are_not_verified_and_collects_what_is_finished(tmp_path, monkeypatch):
    data = tmp_path / "lfw"
    write_small_lfw(data)
    monkeypatch.setattr(faces, "RESULTS", tmp_path / "results")
    options = ["--data", str(data), "--backbone", "resnet8", "--image-size", "16", "--epochs", "1", "--batch-size", "4"]
    arguments = [*options, "--seeds", "0", "--only", "cosface", "--out", str(tmp_path / "runs")]
    faces.main(arguments)
    written = (tmp_path / "results" / "faces.json").read_text()
    (row,) = json.loads(written)
    assert row["environment"]["data"]["classes"] == 3  # those of the first fold; the second is verified
    assert (row["figures"]["same"], row["figures"]["different"], row["figures"]["folds"]) == (10, 10, 10)
    faces.main(arguments)  # nothing is trained again
    assert (tmp_path / "results" / "faces.json").read_text() == written

    people = (data / "people.txt").read_text()
    (data / "people.txt").write_text(people.replace("Di\t5", "Eve\t5"))
    with pytest.raises(LongtailError, match="1 people are in the training set and in the pairs, first 'Eve'"):
        faces.main(arguments)


def write_small_lfw(folder):
    """Two folds of people.txt with three people each, and their pairs."""
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = []
    folds = [["Ann_Lee", "Bo", "Di"], ["Eve", "Flo", "Gus"]]
    for label, name in enumerate(itertools.chain(*folds)):
        for i in range(1, 6):
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "png")
            rows.append({"image": {"bytes": file.getvalue(), "path": None}, "name": f"{name}_{i:04d}", "label": label})
    pq.write_table(pa.Table.from_pylist(rows), folder / "images.parquet")
    people = ["2", *(line for fold in folds for line in (str(len(fold)), *(f"{name}\t5" for name in fold)))]
    (folder / "people.txt").write_text("\n".join(people) + "\n")
    lines = ["2\t10"]
    for first, second, _ in folds:
        pairs = list(itertools.combinations(range(1, 6), 2))
        lines += [f"{first}\t{i}\t{j}" for i, j in pairs] + [f"{first}\t{i}\t{second}\t{j}" for i, j in pairs]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", compare.VARIANTS)
def test_every_variant_compared_is_a_valid_run(name):
    variant = dict(compare.VARIANTS[name])
    train = compare.SHARED | variant.pop("train") | {"epochs": 3}
    config = make_config(variant.pop("method"), None, variant | {"train": train})
    assert (config.train.batch_size, config.train.epochs) == (64, 3)


def test_a_comparison_tells_scores_and_geometry_of_what_is_finished(small_set, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "RESULTS", tmp_path)
    words = ["small", "--data", small_set, "--imbalance", "0", "--epochs", "2", "--backbone", "resnet8", "--geometry"]
    monkeypatch.setattr("sys.argv", ["compare", *words, "--only", "ce", "--out", str(tmp_path / "runs")])
    compare.main()
    (row,) = json.loads((tmp_path / "compare-small.json").read_text())
    assert row["config"]["data"]["source"] == "small"
    assert set(row["geometry"]) == set(compare.GEOMETRY)
    text = (tmp_path / "compare-small.md").read_text()
    assert f"| ce | {100 * row['results']['metrics']['top1']:.2f} |" in text
    assert f"| ce | {row['geometry']['compactness']:.3f} |" in text


def test_the_converged_table_sets_each_method_beside_cross_entropy_and_keeps_what_was_written_by_hand(
    small_set, tmp_path, monkeypatch
):
    setting = {
        "data": {"source": small_set} | converged.CARVED | {"imbalance": 2},
        "backbone": "resnet8",
        "recipes": False,
    }
    monkeypatch.setattr(converged, "SETTINGS", {"tiny": setting})
    monkeypatch.setattr(converged, "COMMON", {"epochs": 1, "batch_size": 32, "lr": 0.1})
    monkeypatch.setattr(converged, "RESULTS", tmp_path)
    words = ["converged", "tiny", "--only", "ce", "glmc: no consistency", "--out", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", words)
    converged.main()
    ce, glmc = json.loads((tmp_path / "converged-tiny.json").read_text())
    assert glmc["config"]["options"]["contrast_weight"] == 0
    assert (ce["config"]["data"]["source"], set(ce["geometry"])) == ("tiny", set(compare.GEOMETRY))

    # The runs' own comparison, which reads their predictions, finds the same interval.
    folders = [tmp_path / "runs" / "tiny" / name / "seed-0" for name in ("ce", "glmc-no-consistency")]
    (contrast,) = (c for c in compare_runs(folders, baseline="ce").contrasts if c.measure == "top1")
    assert converged.over([glmc], [ce]) == contrast.images

    (tmp_path / "converged-tiny.note.md").write_text("Ruled out: the sampler.\n")
    monkeypatch.setattr(converged, "measure_geometry", None)  # what is known is not measured again
    text = converged.write_table(argparse.Namespace(setting="tiny", out=tmp_path / "runs"))
    assert "\n\nRuled out: the sampler.\n\n| method | compactness" in text
    mine = glmc | {"right": base64.b64encode(bytes(len(converged._right(glmc)))).decode()}
    assert converged._disagreements("tiny", ["glmc"])[1].startswith("Behind cross-entropy here")
    assert converged.over([mine], [ce]).mean == pytest.approx(-ce["results"]["metrics"]["top1"])


@pytest.mark.parametrize(
    ("setting", "name"), [(s, n) for s, told in converged.SETTINGS.items() for n in told.get("rows", ())]
)
def test_the_rows_of_a_setting_are_valid_runs(setting, name):
    method, own = converged.VARIANTS[name]
    told = converged.overrides(converged.SETTINGS[setting], argparse.Namespace(data="x", compile=False))
    config = make_config(method, None, merge(told, own))
    assert config.backbone == ("resnet32_w64" if name.endswith("_w64") else "resnet32")


def test_a_record_keeps_the_runs_of_other_machines_and_refuses_those_of_other_settings(tmp_path):
    def add(*rows):
        return add_to_record(tmp_path / "record.json", rows, lambda row: row["name"], lambda row: row["epochs"])

    add({"name": "ce", "epochs": 15, "top1": 1}, {"name": "bcl", "epochs": 15, "top1": 2})
    rows = add({"name": "bcl", "epochs": 15, "top1": 3}, {"name": "glmc", "epochs": 15, "top1": 4})
    assert {row["name"]: row["top1"] for row in rows} == {"ce": 1, "bcl": 3, "glmc": 4}
    with pytest.raises(UsageError, match=r"record.json and the runs at hand differ in their settings: 15 and 20"):
        add({"name": "bce3s", "epochs": 20, "top1": 5})
    assert json.loads((tmp_path / "record.json").read_text()) == rows


def test_a_table_says_which_run_is_from_where():
    def row(name, compiled):
        environment = {"processor": "P", "threads": 1, "date": "2026-11-21T00:00", "packages": {"torch": "2.13.0"}}
        environment["git_commit"] = "0123456789abcdef"
        return {"name": name, "environment": environment, "config": {"train": {"compile": compiled}}}

    def lines(*rows):
        return provenance(rows, lambda row: row["name"])

    made = "- machine: P, 1 thread a run; 2026-11-21; torch 2.13.0; commit 0123456789ab"
    assert lines(row("ce", False), row("bcl", False)) == [made]
    mixed = lines(row("ce", False), row("bcl", True), row("glmc", False))
    assert mixed == [f"{made} (ce, glmc)", f"{made}, network compiled (bcl)"]


def test_streaming_compares_the_same_crops_and_finds_them_equal(tmp_path):
    out = tmp_path / "streaming.json"
    streaming.main(["--images", "24", "--batch", "4", "--workers", "1", "--rounds", "2", "--out", str(out)])
    record = json.loads(out.read_text())
    assert record["difference_in_levels"]["max"] <= 1
    assert len(record["rounds"]["ours"]) == len(record["rounds"]["torchvision"]) == 2
    assert len(record["memory_gb_at_quarters"]) == 8


def test_a_step_is_measured_for_every_method_and_a_draw_for_every_sampler(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "METHODS", ("bcl",))
    out = tmp_path / "scale.json"
    scale.main(["--classes", "10", "--images", "1000", "2000", "--batch", "4", "--steps", "1", "--out", str(out)])
    record = json.loads(out.read_text())
    assert [row["label"] for row in record["steps"]] == [*scale.METHODS, "bce3s, uniform=off"]
    assert [row["images"] for row in record["draws"]] == [1000, 2000]
    assert all(row[name]["batch_ms"] > 0 for row in record["draws"] for name in scale.SAMPLERS)


def test_startup_and_processes_run_to_the_end(tmp_path):
    out = tmp_path / "record.json"
    common = ["--backbone", "resnet8", "--rounds", "1", "--out", str(out)]
    data = tmp_path / "images.npz"
    throughput.write_synthetic(data, 200)
    startup.main(["--data", str(data), "--pickled", *common])
    assert {name: len(times) for name, times in json.loads(out.read_text())["seconds"].items()} == {
        "images.npz": 1,
        "images.npz, pickled": 1,
    }
    processes.main(["--epochs", "2", *common])
    assert set(json.loads(out.read_text())["images_per_second"]) == set(processes.CASES)


def test_the_gpu_script_keeps_what_is_done_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "NETWORKS", {"glmc": ("resnet32_w64", 64)})
    monkeypatch.setattr(gpu, "MODES", {"eager": (2, ())})
    monkeypatch.setattr(gpu, "FULL_SCHEDULES", ("ce/cifar10-lt-100",))
    data = tmp_path / "images.npz"
    throughput.write_synthetic(data, 2000)
    arguments = ["--data", str(data), "--small", "resnet8", "--epochs", "1", "--batch", "16", "--steps", "2"]
    arguments += ["--rounds", "1", "--identities", "100", "--runs", str(tmp_path / "runs")]
    arguments += ["--results", str(tmp_path / "results")]

    gpu.main([*arguments, "--minutes", "0.01"])
    assert "Call again" in capsys.readouterr().out
    gpu.main([*arguments, "--minutes", "30"])
    assert "All is done." in capsys.readouterr().out
    verdicts = json.loads((tmp_path / "results" / "no_waiting.json").read_text())
    assert verdicts["bce3s"] == "no wait"
    (line,) = (tmp_path / "results" / "reproductions.jsonl").read_text().splitlines()
    assert json.loads(line)["recipe"] == "ce/cifar10-lt-100"
    gpu.main([*arguments, "--minutes", "0.01"])
    assert capsys.readouterr().out.count("done before") == 4


def test_a_part_of_the_gpu_script_that_fails_leaves_the_others_their_turn(tmp_path, monkeypatch, capsys):
    class Broken:
        def __init__(self, *_):
            raise RuntimeError("no kernel image")

    monkeypatch.setattr(gpu, "Trainer", Broken)
    data = tmp_path / "images.npz"
    throughput.write_synthetic(data, 100)
    arguments = ["--data", str(data), "--results", str(tmp_path), "--only", "waiting", "identities"]
    gpu.main([*arguments, "--identities", "100"])
    out, err = capsys.readouterr()
    assert "no kernel image" in err
    assert "Open: no waiting for the device. Call again" in out
    assert {path.name for path in tmp_path.iterdir()} == {"images.npz", "identities.json"}


def test_a_part_that_takes_too_long_is_ended_with_all_that_it_started():
    seconds = "987.125"
    assert not gpu.finishes(0.02, "timeit", f"import subprocess; subprocess.run(['sleep', '{seconds}'])")
    time.sleep(0.1)
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert b"\0".join((b"sleep", seconds.encode(), b"")) not in commands
    assert gpu.finishes(1, "timeit", "-n", "1", "pass")
