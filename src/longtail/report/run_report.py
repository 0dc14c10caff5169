"""`report.html`: where one run stands, class by class."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..classes import SHOTS
from ..engine.prepare import Subset, images_of
from ..engine.run import Run
from ..errors import LongtailError
from ..evaluation.bias import groups
from ..evaluation.predictions import Predictions, read
from ..files import read_json
from ..printable import untold
from . import figures
from .class_tables import class_rows, shots_table, taken_by_class, taken_text, thresholds_table, tiles
from .page import write_page
from .pictures import Gallery, confused_pairs, duplicates
from .suspects import SHOWN, doubtful_labels, most_wrong
from .thumbnails import Thumbnails
from .verdict import advice, findings

logger = logging.getLogger("longtail")

PARTS = {
    "verdict": "Verdict",
    "classes": "Classes",
    "shots": "Shots",
    "frequency": "Frequency",
    "confusion": "Confusion",
    "confidence": "Confidence",
    "images": "Images",
    "training": "Training",
    "provenance": "Provenance",
}


def write_report(path: str | Path, out: Path | None = None) -> Path:
    """Write the report of the run in folder `path` to `out`, by default report.html in it, and return where it is.

    What the run does not have, predictions of an earlier version or images that have moved, is left out, and the page
    says so. Raises `UsageError` where `path` is no finished run.
    """
    run = Run.open(path)
    results = run.results()
    out = out or run.path / "report.html"
    notes: list[str] = []
    predictions = _predictions(run, notes)
    context = _run_context(run, results, has_predictions=predictions is not None)
    plots: dict[str, Any] = context.pop("figures")
    tables: dict[str, Any] = {}
    if predictions is not None:
        subset = _subset(run, notes)
        plots |= _plots(predictions)
        tables["classes"] = class_rows(predictions)
        context |= _predictions_context(predictions, results, run.metrics(), subset)
    parts = [(id, name) for id, name in PARTS.items() if predictions is not None or id in ("training", "provenance")]
    write_page(out, "report.html", plots, tables, parts=parts, notes=notes, predictions=predictions, **context)
    return out


def _predictions(run: Run, notes: list[str]) -> Predictions | None:
    try:
        return read(run.path)
    except LongtailError as error:
        notes.append(f"Nothing can be said about classes and images. {error}")
        return None


def _subset(run: Run, notes: list[str]) -> Subset | None:
    try:
        with untold():
            return images_of(run)
    except LongtailError as error:
        notes.append(f"There are no pictures, because the run's images cannot be read. {error}")
        return None


def _plots(predictions: Predictions) -> dict[str, Any]:
    return {
        "accuracy": figures.accuracy_by_count(predictions, list(map(taken_text, taken_by_class(predictions)))),
        "frequency": figures.frequency(predictions),
        "confusion": figures.confusion(predictions),
        "reliability": figures.reliability_diagram(predictions),
        "risk": figures.risk_by_coverage(predictions),
        "mixes": figures.mixes(predictions),
    }


def _predictions_context(
    predictions: Predictions, results: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], subset: Subset | None
) -> dict[str, Any]:
    thumbnails = Thumbnails()
    held_out = None if subset is None else subset.held_out.get(predictions.split)
    gallery = Gallery(predictions, held_out, thumbnails)
    found, about = doubtful_labels(predictions)
    of = groups(predictions)
    return {
        "tiles": tiles(predictions),
        "findings": findings(predictions),
        "advice": advice(predictions, results["method"], metrics, 0 if found is None else len(found)),
        "each_bar": len(predictions.classes) <= figures.MOST_BARS,
        "grouped": len(predictions.classes) > figures.MOST_CELLS,
        "shots": shots_table(predictions),
        "pairs": list(confused_pairs(predictions, subset, thumbnails)),
        "thresholds": thresholds_table(predictions),
        "rare_name": of.rare_name,
        "wrong": gallery.show(most_wrong(predictions)),
        "doubts": {
            "about": about,
            "found": None if found is None else len(found),
            "pictures": [] if found is None else gallery.show(found[:SHOWN]),
        },
        "duplicates": duplicates(predictions, subset, gallery),
    }


def _run_context(run: Run, results: Mapping[str, Any], has_predictions: bool) -> dict[str, Any]:
    metrics, data = run.metrics(), results["data"]
    environment = read_json(run.environment_file) if run.environment_file.exists() else {}
    packages = ", ".join(f"{name} {v}" for name, v in environment.get("packages", {}).items() if v)
    adds = results.get("multiply_adds")
    facts = {
        "run": str(run.path),
        "protocol": results["protocol"],
        "scored": f"{results['split']} split",
        "seed": results["seed"],
        "source": data["source"],
        "training images": f"{data['train_images']:,} of {data['classes']:,} classes, imbalance {data['imbalance_factor']:g}",
        "subset": f"{data['subset']}, {data['subset_hash']}",
        "labels": data.get("labels_hash", "not recorded"),
        "left out as unreadable": len(results["skipped_images"]),
        "parameters": f"{results['parameters']:,}",
        "multiply-adds an image": f"{adds:,}" if adds else "not recorded",
        "training time": f"{results['seconds']:,} s",
        "machine": environment.get("processor", "not recorded"),
        "date": environment.get("date", "not recorded"),
        "precision": environment.get("precision", "not recorded"),
        "versions": f"python {environment.get('python')}, {packages}" if packages else "not recorded",
        "commit": environment.get("git_commit") or "not recorded",
    }
    return {
        "title": f"{results['method']} on {data['source']}",
        "subtitle": f"{results['backbone']}, {results['epochs']:,} epochs, seed {results['seed']}; {results['protocol']}",
        "run": str(run.path),
        "curves": bool(metrics),
        "watched": "validation" if any("val" in line for line in metrics) else "test",
        "geometries": list(_geometries(run)),
        "facts": list(facts.items()),
        "config": run.config_file.read_text(errors="replace"),
        "figures": figures.curves(metrics) if metrics else {},
    }


def _geometries(run: Run) -> Iterator[dict[str, Any]]:
    """Of what `longtail eval --geometry` saved."""
    for file in sorted(run.path.glob("evaluation-*.json")):
        for split, measured in read_json(file).get("geometry", {}).items():
            groups_of = ("all", *SHOTS)
            rows = [
                (
                    name.replace("_", " "),
                    *("-" if (v := measured[g].get(name)) is None else f"{v:.3f}" for g in groups_of),
                )
                for name in measured["all"]
            ]
            caption = f"Geometry of {split} features and classifier: cosines at best 1, angles in degrees."
            yield {"columns": ("", *groups_of), "rows": rows, "caption": caption}
