"""Every command of the pages is run, a page at a time and in its order, on a little of the data that it speaks of.

A page's commands share a folder, so that a run made by one is there for the next. Only what cannot run in a test is left
out, by name and with the reason.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from small_world import COUNTS, make_world
from typer.main import get_command

from longtail.cli import app
from longtail.cli.train import DEMO
from longtail.engine.run import Run
from longtail.methods import method_class
from longtail.report.options import option_rows

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/methods").glob("*.md"))]
# Lines, or how they begin, that are not run here, and why.
NOT_RUN = {
    "python3 -m venv": "`make demo` does it, in CI on a bare machine",
    ".venv/bin/pip install": "the same",
    "source .venv": "the same",
    "curl ": "asks the server that `serve` keeps up; tests/ship/test_serve.py posts the same with a real client",
    "longtail train ce --data hf:NAME": "downloads a data set",
    "longtail train lift": "downloads a vision transformer; tests/methods trains it on an untrained one",
    "longtail train bcl --data photos --image-size 64 --set devices=2": "starts processes, as tests/engine/test_trainer.py does",
}
# Runs that a page takes for granted.
BEFORE = {
    "photos": "train balanced_softmax --data photos --image-size 16",
    "ce": "train ce --data photos --image-size 16",
    "bcl": "train bcl --data photos --image-size 16",
    "glmc": "train glmc --data photos --image-size 16",
    "three": "train ride --data photos --image-size 16",
    "faces": "train cosface_epl --data faces --backbone iresnet18 --image-size 32",
    **{
        f"{method}-{seed}": f"train {method} --data photos --image-size 16 --seed {seed}"
        for method in ("ce", "glmc")
        for seed in range(3)
    },
    **{
        name: f"train ce --data photos --image-size 16 --lr {lr}" for name, lr in (("a", 0.1), ("b", 0.05), ("c", 0.02))
    },
}


def commands(page: Path) -> list[str]:
    """Lines of the page's shell blocks."""
    found = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [line.strip() for block in found for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def reason_not_to_run(line: str) -> str | None:
    return next((reason for start, reason in NOT_RUN.items() if line.startswith(start)), None)


def less(words: list[str], number: int) -> list[str]:
    """The command with what makes it short: an epoch, small images, a carving that a handful of images bears."""
    command, text = words[0], " ".join(words)
    if command == "reproduce":
        return [*words, "--epochs", "1", "--seeds", "1", "--set", "data.imbalance=2"]
    if command == "tune":
        return [
            *words,
            "--epochs",
            "1",
            "--trials",
            "2",
            "--image-size",
            "16",
            "--backbone",
            "resnet8",
            "--set",
            "batch_size=8",
        ]
    if "--resume" in words:
        return [*words, "--epochs", "3"] if "--epochs" in words else words
    if command != "train":
        return words
    more = ["--budget", "6s"] if "--budget" in words else ["--epochs", "1", "--batch-size", "8"]
    if "iresnet" in text:
        more += ["--image-size", "32", "--backbone", "iresnet18"]
    elif "--image-size" in words or "--recipe" in words:
        more += ["--image-size", "16", "--backbone", "resnet8"]
    elif any(word.startswith("photos") for word in words):
        more += ["--image-size", "72"]  # still photographs, which start from a trained backbone
    if "cifar" in text:
        more += ["--imbalance", "2"]
    if "--out" not in words:
        more += ["--out", f"runs/number-{number}"]
    return words + more + later_stages(words)


def later_stages(words: list[str]) -> list[str]:
    """One epoch for each stage after the first."""
    method = "balanced_softmax" if words[1] == "auto" else words[1]
    if method.startswith("--"):
        method = Run.open(words[words.index("--from") + 1]).config().method
    if "--then" in words:
        method += "+" + words[words.index("--then") + 1].replace(",", "+")
    names = [name for name, *_ in option_rows(method_class(method).Options) if re.search(r"(^|_|\.)epochs$", name)]
    return [word for name in names if "warmup" not in name for word in ("--set", f"{name}=1")]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    return folder


def answered(app, *_) -> None:
    """In place of a server that stays up: one image is posted."""
    from fastapi.testclient import TestClient

    answer = TestClient(app).post("/predict", content=Path("photo.jpg").read_bytes())
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["label"] in COUNTS


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_commands_run(page, world, longtail, hub, monkeypatch, tmp_path):
    for item in world.iterdir():
        if item.name != "runs":
            (tmp_path / item.name).symlink_to(item)
    for name, value in {"HOME": tmp_path, "LONGTAIL_CACHE": tmp_path / "cache", "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("longtail.ship.serve.serve", answered)
    monkeypatch.setitem(DEMO, "train", DEMO["train"] | {"epochs": 1})

    def run(line: str, number: int = 0) -> str:
        words = less(shlex.split(line, comments=True), number)
        code, out, err = longtail(*words)
        assert code == 0, f"longtail {shlex.join(words)}\n{err or out}"
        return out

    for number, line in enumerate(commands(page)):
        if reason_not_to_run(line):
            continue
        command, _, target = line.partition(" > ")
        made = re.search(r"--out runs/(\S+)", line)
        for name in re.findall(r"runs/([\w-]+)", line):
            if not (tmp_path / "runs" / name).exists() and not (made and made[1] == name):
                monkeypatch.chdir(world)
                if not Path("runs", name).exists():
                    run(f"{BEFORE[name]} --out runs/{name}")
                shutil.copytree(Path("runs", name), tmp_path / "runs" / name)
        monkeypatch.chdir(tmp_path)
        out = run(re.sub(r"^(\.venv/bin/)?longtail ", "", command), number)
        if target:
            Path(target).write_text(out)
            assert out.strip()
    if page.stem == "README":
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            exec(block, {})


def test_what_is_not_run_is_on_a_page():
    lines = [line for page in PAGES for line in commands(page)]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []


def test_commands_within_sentences_have_these_options():
    """`longtail train --from RUN --then crt`, say, in the middle of one: with a name for what the reader would put there."""
    top = get_command(app)
    spans = {span for page in PAGES for span in re.findall(r"`(longtail [^`\n]+)`", page.read_text())}
    assert len(spans) > 20
    for span in sorted(spans):
        command, words = top, span.split()[1:]
        while hasattr(command, "commands") and words:
            assert words[0] in command.commands or words[0].startswith("--"), span
            command = command.commands.get(words.pop(0), command)
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
            "--help"
        }
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, span
