"""The pages say what the code does: their tables, commands and examples are checked here.

`python tests/test_docs.py` writes the tables anew after an option or a recipe has changed.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from choice_table import RESULTS, choice, headline, markdown
from pydantic import BaseModel

import longtail
from longtail import api
from longtail.cli import app, shared
from longtail.config import Config, DataConfig, FinetuneConfig, TrainConfig
from longtail.methods import METHODS, SECOND_STAGES, Entry, method_class
from longtail.recipes import all_recipes
from longtail.recipes.measured import HEADINGS, measured
from longtail.report.options import option_rows

ROOT = Path(__file__).parents[1]
# Not docs/reference, which is written from the code.
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/methods").glob("*.md")), ROOT / "README.md"]
TABLE = re.compile(r"(<!-- table: (\w+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def options_table(model: type[BaseModel]) -> list[tuple[str, ...]]:
    header = ("option", "type", "default", "meaning")
    return [
        header,
        *((f"`{row[0]}`", row[1], f"`{row[2]}`" if row[2] else "required", row[3]) for row in option_rows(model)),
    ]


def defaults_table(method: str) -> list[tuple[str, ...]]:
    """Of the options that `ce` has, too, those with another default."""
    header, *rows = options_table(method_class(method).Options)
    return [header, *(row for row in rows if row not in options_table(method_class("ce").Options))]


def stage_table(method: str) -> list[tuple[str, ...]]:
    """The options of a method's second stages."""
    header, *rows = options_table(method_class(method).Options)
    return [header, *(row for row in rows if "." in row[0])]


def recipes_table(method: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("recipe", "what", "reported top-1 % (source)")]
    for name, recipe in all_recipes().items():
        if recipe.method == method:
            figures = [f"{f.top1:g} ({f.source}{'; ' + f.note if f.note else ''})" for f in recipe.reported]
            rows.append((f"`{name.split('/')[1]}`", recipe.about, "<br>".join(figures) or "-"))
    return rows


def measured_table(method: str) -> list[tuple[str, ...]]:
    none = ("not measured yet", *("-" for _ in HEADINGS[1:]))
    return [HEADINGS, *([line.cells for line in measured(method)] or [none])]


def reproductions_table() -> list[tuple[str, ...]]:
    """What `longtail reproduce --results benchmarks/results/reproductions.jsonl` measured, beside what was reported."""
    file = RESULTS / "reproductions.jsonl"
    rows: list[tuple[str, ...]] = [("recipe", "epochs, seeds", "reported", "last epoch", "best on test", "with flip")]
    for text in file.read_text().splitlines() if file.exists() else []:
        line = json.loads(text)
        reported = " / ".join(f"{figure.top1:g}" for figure in all_recipes()[line["recipe"]].reported)
        measured = [f"{value['mean']} ± {value['std']}" for value in line["measured"].values()]
        rows.append((line["recipe"], f"{line['epochs']}, {len(line['seeds'])}", reported, *measured))
    return rows


def kinds_table() -> list[tuple[str, ...]]:
    """The methods by kind, and the second stages."""
    rows: list[tuple[str, ...]] = [("", "methods")]
    for kind in dict.fromkeys(entry.kind for entry in METHODS.values()):
        rows.append((kind, " ".join(f"`{name}`" for name, entry in METHODS.items() if entry.kind == kind)))
    return [*rows, ("second stages, `--then`", " ".join(f"`{name}`" for name in SECOND_STAGES))]


# What README shows of the benchmark's rows, and how it calls them.
PHOTOGRAPHS = {
    "sklearn-balanced": "frozen features, scikit-learn's logistic regression, `class_weight`",
    "head-ce": "frozen features, cross-entropy",
    "head-balanced_softmax": "frozen features, Balanced Softmax",
    "plain fine-tuning": "all weights, cross-entropy, one rate, as general tools do",
    "full-balanced_softmax": "all weights, Balanced Softmax",
    "partial-ce": "last stages, cross-entropy",
    "partial-balanced_softmax": "last stages, Balanced Softmax",
    "longtail train balanced_softmax --freeze": "`longtail train balanced_softmax photos --freeze`",
    "longtail train auto --budget 15m": "`longtail train auto photos --budget 15m`",
    "longtail train auto --budget 1h": "`longtail train auto photos --budget 1h`",
}


def photographs(name: str) -> str:
    """Of a benchmark's Markdown the rows that tell a user most."""
    text = (RESULTS / f"{name}.md").read_text()
    data = next(line for line in text.splitlines() if line.startswith("- data: "))
    found = {row[0]: row[1:] for row in re.findall(r"^\| (.*?) \| (\d+) \| (.*?) \| (.*?) \|", text, re.MULTILINE)}
    rows = [(called, *found[row]) for row, called in PHOTOGRAPHS.items() if row in found]
    header = ["| what learns, loss | seeds | class-balanced | top-1 |", "|---|---:|---:|---:|"]
    return "\n".join([data, "", *header, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def throughput_table(record: dict[str, Any]) -> list[tuple[str, ...]]:
    columns = "method, network|bare|loop|loop / bare|loop / plain loop|evaluation / loop|share of matrix peak"
    header = tuple(columns.split("|"))
    # Records until 2026-11-21 have one figure, of a process that ran everything.
    has_memory = isinstance(record["results"][0]["peak_memory_gb"], dict)
    rows = [(*header, "peak memory") if has_memory else header]
    for r in record["results"]:
        rate, bare, plain = r["images_per_second"], r["loop_over_bare"], r.get("loop_over_reference")
        cells = (
            f"{r['method']}, {r['backbone']}",
            f"{rate['bare']:.0f} images/s",
            f"{rate['loop']:.0f} images/s",
            f"{bare['median']:.2f} ({bare['min']:.2f} to {bare['max']:.2f})",
            f"{plain['median']:.1f} ({plain['min']:.1f} to {plain['max']:.1f})" if plain else "-",
            f"{r['evaluation_over_loop']:.1f}",
            f"{r['utilisation']:.0%}",
        )
        rows.append((*cells, peak_memory(r["peak_memory_gb"])) if has_memory else cells)
    return rows


def relative_speed_table(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """The training loop's images a second, and how much longer an epoch takes than cross-entropy's on that network."""
    rates = {(r["backbone"], r["method"]): r["images_per_second"]["loop"] for r in record["results"]}
    speed = f"images/s ({record['machine']}, {record['date']})"
    rows: list[tuple[str, ...]] = [("method", "network", speed, "time of an epoch, `ce` = 1")]
    for (backbone, method), rate in rates.items():
        baseline = rates.get((backbone, "ce"))
        rows.append((f"`{method}`", backbone, f"{rate:.0f}", f"{baseline / rate:.1f}" if baseline else "-"))
    return rows


def peak_memory(gb: dict[str, float]) -> str:
    names = {"bare": "bare", "loop": "loop", "reference": "plain loop"}
    return ", ".join(f"{name} {gb[part]:.2f} GB" for part, name in names.items() if part in gb)


def phases_table(record: dict[str, Any]) -> list[tuple[str, ...]]:
    phases = list(record["results"][0]["phases"])
    rows = [(r["method"], *(f"{r['phases'][phase]:.1%}" for phase in phases)) for r in record["results"]]
    return [("", *phases), *rows]


def precision_table(record: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for r in record["results"]:
        over = r["over fp32 NCHW"]
        rates = r["images_per_second"].items()
        rows.append((r["backbone"], *(f"{rate:.0f} images/s ({over[name]['median']:.2f})" for name, rate in rates)))
    return [("network", *record["results"][0]["rounds"]), *rows]


def steps_table(record: dict[str, Any]) -> list[tuple[str, ...]]:
    steps = record["steps"]
    classes = sorted({row["classes"] for row in steps})
    cells = {
        (row["label"], row["classes"]): f"{row['step_ms']:.0f} ms, {row['peak_memory_gb']:.2f} GB" for row in steps
    }
    labels = dict.fromkeys(row["label"] for row in steps)
    header = ("", *(f"{count:,} classes" for count in classes))
    return [header, *((label, *(cells.get((label, count), "-") for count in classes)) for label in labels)]


def draws_table(record: dict[str, Any]) -> list[tuple[str, ...]]:
    samplers = ("instance", "balanced", "power", "reversed")
    rows = [
        (
            f"{row['images']:,}",
            f"{row['index_seconds']:.2f} s",
            *(f"{row[name]['batch_ms']:.3f} ms" for name in samplers),
        )
        for row in record["draws"]
    ]
    return [("images", "sorted by class once", *samplers), *rows]


def identities_table(record: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [
        (
            f"{case['identities']:,}",
            f"{case['sample']:.0%}",
            f"{case['median_step_s']:.2f} s",
            f"{case['peak_memory_gb']:.1f} GB",
        )
        for case in record["cases"]
    ]
    return [("identities", "of them in a step", "step", "peak memory"), *rows]


def startup_table(record: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [
        (name, f"{median(times):.1f} s ({min(times):.1f} to {max(times):.1f})")
        for name, times in {**record["seconds"], "`import torch` alone": record["importing_torch_seconds"]}.items()
    ]
    return [(record["machine"], f"median of {len(record['importing_torch_seconds'])}"), *rows]


def report_table(record: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [
        (
            f"{case['classes']:,}",
            f"{case['test_images']:,}",
            f"{case['cpu_seconds']:.1f} s",
            f"{case['seconds']:.1f} s",
            f"{case['megabytes']:.1f} MB",
        )
        for case in record["cases"]
    ]
    return [("classes", "test images", "CPU", "clock", "page"), *rows]


# Tables of figures that a benchmark wrote.
MEASURED = {
    "throughput": throughput_table,
    "relative_speed": relative_speed_table,
    "phases": phases_table,
    "precision": precision_table,
    "steps": steps_table,
    "draws": draws_table,
    "identities": identities_table,
    "startup": startup_table,
    "report": report_table,
}
# Those that come with what was measured and where.
TEXTS = {"headline": headline, "photographs": photographs, "choice": choice}


def fill(page: str) -> str:
    """The page with each table between `<!-- table: KIND NAME -->` and `<!-- end -->` as the code has it."""

    def table(match: re.Match[str]) -> str:
        head, kind, name, end = match.groups()
        if kind == "results":  # written by a benchmark
            return head + (RESULTS / f"{name}.md").read_text().partition("\n\n")[2] + end
        if kind in TEXTS:
            return head + TEXTS[kind](name) + end
        sections = {model.__name__: model for model in (Config, DataConfig, TrainConfig, FinetuneConfig)}
        if kind in MEASURED:
            rows = MEASURED[kind](json.loads((RESULTS / f"{name}.json").read_text()))
        elif kind == "options":
            rows = options_table(sections[name] if name in sections else method_class(name).Options)
        elif kind == "kinds":
            rows = kinds_table()
        else:
            tables = {
                "measured": measured_table,
                "recipes": recipes_table,
                "defaults": defaults_table,
                "stage": stage_table,
            }
            rows = tables[kind](name) if kind in tables else reproductions_table()
        return head + markdown(rows) + end

    return TABLE.sub(table, page)


def blocks(path: Path, language: str) -> list[str]:
    """Fenced parts in `language`, or (empty) in any."""
    return re.findall(rf"^```{language or '[a-z]*'}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tables_are_what_the_code_says(page):
    assert fill(page.read_text()) == page.read_text(), "run: python tests/test_docs.py"


def test_every_method_s_page_says_what_was_measured():
    shown = {match[3] for page in PAGES for match in TABLE.finditer(page.read_text()) if match[2] == "measured"}
    assert shown == {name for name, entry in METHODS.items() if entry.kind not in ("faces", "foundation models")}


def test_every_option_has_a_table():
    shown = {match.groups()[1:3] for page in PAGES for match in TABLE.finditer(page.read_text())}
    methods = {page.stem for page in (ROOT / "docs" / "methods").glob("*.md")}
    assert shown >= {("options", name) for name in ("Config", "DataConfig", "TrainConfig", "FinetuneConfig")}
    assert methods & METHODS.keys() <= {name for kind, name in shown if kind in ("options", "defaults", "stage")}
    assert shown >= {("recipes", recipe.method) for recipe in all_recipes().values() if recipe.method in methods}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists() and "reference/" not in target] == []


def test_the_site(tmp_path):
    """It is built without a complaint: no link or anchor leads nowhere, and each page is in the navigation."""
    pytest.importorskip("zensical", reason="needs longtail[docs]")
    for name in ("docs", "mkdocs.yml", "tools/reference.py"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    for words in (["tools/reference.py"], ["-m", "zensical", "build", "--strict"]):
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    listed = set(re.findall(r"(\S+\.md)", (tmp_path / "mkdocs.yml").read_text().partition("\nnav:")[2]))
    assert listed == {str(page.relative_to(tmp_path / "docs")) for page in (tmp_path / "docs").rglob("*.md")}
    page = (tmp_path / "build/site/index.html").read_text()
    asked = {link for link in re.findall(r'(?:src|href)="(https?://[^"]*)"', page) if "zensical.org" not in link}
    assert asked == set(), "a page asks other servers"


def test_the_inspection_shown_is_what_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(shared.console, "_width", 80)
    app(["data", "inspect", "fashion-mnist-lt"], standalone_mode=False)
    printed = "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())
    assert blocks(ROOT / "docs" / "data.md", "text") == [printed]


def test_python_examples_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for page in ("start", "training", "evaluation", "deploy"):
        for block in blocks(ROOT / "docs" / f"{page}.md", "python"):
            exec(block, scope)
    assert scope["results"]["metrics"]["images"] == 1000
    assert [len(prediction.labels) for prediction in scope["predictions"]] == [3, 3]


def test_the_example_method_trains(monkeypatch, tmp_path):
    source = tmp_path / "weighted_ce.py"
    source.write_text(blocks(ROOT / "docs" / "adding-a-method.md", "python")[0])
    spec = importlib.util.spec_from_file_location("longtail.methods.weighted_ce", source)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "longtail.methods.weighted_ce", module)
    spec.loader.exec_module(module)
    entry = Entry("weighted_ce:WeightedCrossEntropy", "losses", 2026, "the example")
    monkeypatch.setitem(METHODS, "weighted_ce", entry)

    results = longtail.train(
        "weighted_ce",
        out=tmp_path / "run",
        backbone="resnet8",
        train={"epochs": 1, "accelerator": "cpu"},
        options={"power": 0.5},
    )

    assert results["epochs"] == 1
    assert api.load(tmp_path / "run").description.options == {"augment": "weak", "power": 0.5}


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(fill(path.read_text()))
