"""The benchmark scripts run, and their figures are of what they say."""

from __future__ import annotations

import json

import pytest

from benchmarks import memory, throughput
from benchmarks.loss_memory import resident_bytes
from longtail.errors import UsageError

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
    assert sum(result["phases"].values()) == pytest.approx(1)
    assert len(result["phases"]) == 5


def test_data_with_too_few_steps_is_refused():
    with pytest.raises(UsageError, match="8 steps are needed"):
        throughput.main(
            [*SMALL, "--method", "ce", "--steps", "2", "--rounds", "2", "--data", "fashion-mnist-lt", "--batch", "2000"]
        )


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
