"""The model card: what a stranger must know before using a model, as Markdown with the Hub's front matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..classes import SHOTS, Classes
from ..engine.calibration import read_calibration
from ..engine.description import Description, read_description
from ..files import read_json
from ..report.tables import percent
from ..version import __version__

HEADER = """---
library_name: longtail
pipeline_tag: image-classification
tags: [image-classification, long-tailed-recognition]
---
"""
RARE = 20  # classes listed one by one


def model_card(folder: Path, int8: Mapping[str, Any] | None = None) -> str:
    """The card of the model in `folder`, a run's or any other with model.json. `int8`: its metrics after quantisation.

    Every figure is one that the run's results.json holds, or `int8`.
    """
    description = read_description(folder)
    classes = Classes(description.classes, description.class_counts)
    file = folder / "results.json"
    results = read_json(file) if file.is_file() else {}
    metrics = results.get("metrics")
    sections = [
        f"# {description.method} on {results.get('data', {}).get('source', 'an unnamed set')}",
        f"An image classifier for {len(classes)} classes: `{description.method}` on `{description.backbone}`, "
        f"{description.parameters:,} parameters, made with longtail {__version__}.",
        "## Data\n\n" + _bullets(_data(classes, results.get("data", {}))),
        "## Accuracy\n\n" + (_accuracy(results, int8) if metrics else "Not measured."),
        "## Limits\n\n" + _bullets(_limits(classes, metrics, folder)),
        "## Use\n\n" + _use(description),
    ]
    return HEADER + "\n" + "\n\n".join(sections) + "\n"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _data(classes: Classes, data: Mapping[str, Any]) -> Iterable[str]:
    most, least = max(classes.counts), min(classes.counts)
    yield f"{sum(classes.counts):,} training images, {most:,} of the most frequent class and {least:,} of the rarest."
    shots = ", ".join(f"{classes.shots.count(shot)} {shot}" for shot in SHOTS)
    yield f"Classes by training images: {shots} (many: above 100, few: below 20)."
    for name in ("source", "subset", "subset_hash", "labels_hash"):
        if name in data:
            yield f"{name.replace('_', ' ').capitalize()}: {data[name]}"


def _accuracy(results: Mapping[str, Any], int8: Mapping[str, Any] | None) -> str:
    metrics = results["metrics"]
    rows = []
    for name in ("top1", "class_balanced", *SHOTS):
        label = "top-1" if name == "top1" else name.replace("_", "-")
        rows.append([label, *(percent(figures[name]) for figures in (metrics, int8) if figures)])
    table = _table(["%", "float32", "int8"] if int8 else ["%", ""], rows)
    return (
        f"On {metrics['images']:,} images of the {results['split']} split; {results['protocol']}; one run, seed "
        f"{results['seed']}. Many, medium and few are means over the classes of that frequency.\n\n{table}"
    )


def _limits(classes: Classes, metrics: Mapping[str, Any] | None, folder: Path) -> Iterable[str]:
    yield "It knows its classes alone: an image of anything else is given one of them, often with a high probability."
    if metrics is not None:
        measured = [
            (accuracy, count, name)
            for accuracy, count, name in zip(metrics["per_class"], classes.counts, classes.names, strict=True)
            if accuracy is not None
        ]
        worst = ", ".join(f"{name} {percent(a)} % ({n} training images)" for a, n, name in sorted(measured)[:5])
        yield f"Worst classes: {worst}."
        if untested := len(classes) - len(measured):
            yield f"{untested} of the classes have no test image: nothing is known of them."
    found = read_calibration(folder, len(classes))
    if found is None:
        yield "Its probabilities are not calibrated (`longtail calibrate`)."
    else:
        yield f"Temperature {found.temperature:.3f}, fitted to {found.images:,} images of {found.source}."
    yield "The class mix of the images it will meet may differ from that of training and test: see `--prior`."


def _use(description: Description) -> str:
    code = 'import longtail\n\nmodel = longtail.load("FOLDER")\nprint(model.predict("photo.jpg", top=3))'
    text = f"```python\n{code}\n```"
    if (graph := description.export) is None:
        return text
    size, channels = description.preprocessing.image_size, description.preprocessing.channels
    layout = (
        f"uint8 [B, {channels}, H, W], any size" if graph.preprocess else f"float32 [B, {channels}, {size}, {size}]"
    )
    pixels = description.preprocessing
    normalised = "" if graph.preprocess else f", of pixels in 0..1 less {pixels.mean}, over {pixels.std}"
    mix = "built in" if graph.prior else "as the method scores"
    return (
        f"`{graph.file}` takes `images` {layout}{normalised}, and gives `{graph.output}` float32 [B, "
        f"{len(description.classes) if graph.output == 'logits' else 'D'}] (temperature {graph.temperature:g} built in, class "
        f"mix {mix}). Class names are in `model.json`, in order.\n\n{text}"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
