"""predictions.parquet: what a model said of each held-out image, written after training, read by report and comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..classes import SHOTS, Classes
from ..errors import LongtailError, UsageError
from ..files import write_atomically
from .intervals import mean_interval, wilson

TOP = 10  # classes listed for each image
MOST_LOGITS = 5_000_000  # kept whole, images times classes: 10 MB before compression


@dataclass(frozen=True)
class Predictions:
    """Of N images of C classes, in the split's order.

    `classes`: the training classes. `split`: "test" or "val". `images`: N keys. `labels`, `predicted`: int64 [N].
    `probability`, of the predicted class, and `label_probability`: float64 [N]. `logits`: float32 [N, C], None where they
    would be too many or the file is of an earlier version.
    """

    classes: Classes
    split: str
    images: list[str]
    labels: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    label_probability: np.ndarray
    logits: np.ndarray | None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def correct(self) -> np.ndarray:
        """Bool [N]."""
        return self.predicted == self.labels

    @cached_property
    def tested(self) -> np.ndarray:
        """Images of each class, int64 [C]."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @cached_property
    def hits(self) -> np.ndarray:
        """Images of each class that were predicted as it, int64 [C]."""
        return np.bincount(self.labels[self.correct], minlength=len(self.classes))

    @cached_property
    def named(self) -> np.ndarray:
        """How often each class was predicted, int64 [C]."""
        return np.bincount(self.predicted, minlength=len(self.classes))

    @cached_property
    def accuracy(self) -> np.ndarray:
        """Of each class, float64 [C]; NaN without images."""
        return np.divide(self.hits, self.tested, out=np.full(len(self.classes), np.nan), where=self.tested > 0)

    @cached_property
    def shots(self) -> np.ndarray:
        """Of each class "many", "medium" or "few": str [C]."""
        return np.array(self.classes.shots)

    @cached_property
    def order(self) -> np.ndarray:
        """Classes by training images, most first, int64 [C]."""
        return np.argsort(-np.array(self.classes.counts), kind="stable")

    @cached_property
    def worst(self) -> np.ndarray:
        """Classes with images, int64, by the upper end of their interval: one of three images is not soon the worst."""
        order = np.argsort(wilson(self.hits, self.tested)[1], kind="stable")
        return order[self.tested[order] > 0]

    @cached_property
    def confusions(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (label, predicted), int64 [P, 2], that were taken for each other, and how often, int64 [P]: most first."""
        wrong = ~self.correct
        pairs, times = np.unique(
            np.stack([self.labels[wrong], self.predicted[wrong]], axis=1), axis=0, return_counts=True
        )
        order = np.argsort(-times, kind="stable")
        return pairs[order], times[order]

    def mistakes(self, most: int = 10) -> dict[str, Any]:
        """In plain numbers and names: "intervals" of the mean accuracy of all classes and of each shot, the "worst" classes
        and the commonest "confusions", at most `most` of each."""
        names, (low, high) = self.classes.names, wilson(self.hits, self.tested)
        groups = {"class_balanced": np.ones(len(names), bool)} | {shot: self.shots == shot for shot in SHOTS}
        pairs, times = self.confusions
        return {
            "intervals": {name: mean_interval(self.hits[of], self.tested[of]) for name, of in groups.items()},
            "worst": [
                {
                    "class": names[c],
                    "training_images": self.classes.counts[c],
                    "images": int(self.tested[c]),
                    "accuracy": float(self.accuracy[c]),
                    "interval": (float(low[c]), float(high[c])),
                }
                for c in self.worst[:most].tolist()
            ],
            "confusions": [
                {"label": names[a], "prediction": names[b], "images": n, "share": n / int(self.tested[a])}
                for (a, b), n in zip(pairs[:most].tolist(), times[:most].tolist(), strict=True)
            ],
        }


def condense(index: Tensor, labels: Tensor, logits: Tensor, keep_logits: bool) -> dict[str, Tensor]:
    """What is kept of a batch: its `index` [B], `labels` [B] and `logits` [B, C], as tensors with B rows."""
    probabilities = logits.double().softmax(1)
    # Among equal scores the class with the lower number comes first.
    classes = probabilities.topk(min(TOP, logits.shape[1]), dim=1).indices.sort(1).values
    best = probabilities.gather(1, classes).argsort(dim=1, descending=True, stable=True)
    top = classes.gather(1, best)
    kept = {
        "index": index,
        "label": labels,
        "prediction": probabilities.argmax(1),
        "label_probability": probabilities.gather(1, labels[:, None])[:, 0],
        "top": top,
        "top_probability": probabilities.gather(1, top),
    }
    # Beyond float16's range, where a probability is 0 or 1 anyway.
    return kept | ({"logits": logits.clamp(-65504, 65504).half()} if keep_logits else {})


def write(path: Path, rows: Mapping[str, np.ndarray], images: list[str], classes: Classes, split: str) -> None:
    """Write the `rows` of `condense`, by index; `images` are their N keys. Raises `LongtailError` where the disk refuses."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = pa.array(classes.names)

    def lists(values: Any) -> Any:
        return pa.FixedSizeListArray.from_arrays(values, len(values) // len(images))

    columns = {
        "image": images,
        "label": names.take(pa.array(rows["label"])),
        "prediction": names.take(pa.array(rows["prediction"])),
        "probability": rows["top_probability"].max(1),
        "label_probability": rows["label_probability"],
        "top_labels": lists(names.take(pa.array(rows["top"].ravel()))),
        "top_probabilities": lists(pa.array(rows["top_probability"].ravel().astype(np.float32))),
    }
    if "logits" in rows:
        columns["logits"] = lists(pa.array(rows["logits"].ravel()))
    facts = {"split": split, "classes": classes.names, "class_counts": classes.counts}
    table = pa.table(columns).replace_schema_metadata({"longtail": json.dumps(facts)})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def read(folder: Path) -> Predictions:
    """The predictions of the run in `folder`.

    Raises `UsageError` where there are none, `LongtailError` where the file is damaged or an old one does not say which
    classes the model had.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = folder / "predictions.parquet"
    if not path.is_file():
        raise UsageError(f"{folder} has no predictions.parquet: the run has not finished, or had no held-out images.")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise LongtailError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    facts = json.loads((table.schema.metadata or {}).get(b"longtail", b"null")) or _facts_of_old_run(folder)
    classes = Classes(tuple(facts["classes"]), tuple(facts["class_counts"]))
    names = pa.array(classes.names, pa.string())
    labels, predicted = (
        pc.index_in(table[column].combine_chunks(), value_set=names) for column in ("label", "prediction")
    )
    if labels.null_count or predicted.null_count:
        raise LongtailError(f"{path} names classes that the model in {folder} does not have: train the run anew.")
    logits = None
    if "logits" in table.column_names:
        logits = table["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        logits = logits.astype(np.float32).reshape(len(table), len(classes))
    return Predictions(
        classes=classes,
        split=facts["split"],
        images=table["image"].to_pylist(),
        labels=labels.to_numpy().astype(np.int64),
        predicted=predicted.to_numpy().astype(np.int64),
        probability=table["probability"].to_numpy(),
        label_probability=table["label_probability"].to_numpy(),
        logits=logits,
    )


def _facts_of_old_run(folder: Path) -> dict[str, Any]:
    """Until 0.1 the file did not say these; the model and the results beside it do."""
    try:
        model = json.loads((folder / "model.json").read_text())
        split = json.loads((folder / "results.json").read_text())["split"]
    except (OSError, ValueError, KeyError) as error:
        raise LongtailError(
            f"{folder / 'predictions.parquet'} does not name the classes, and there is no model.json and results.json "
            "beside it that do."
        ) from error
    return {"split": split, "classes": model["classes"], "class_counts": model["class_counts"]}
