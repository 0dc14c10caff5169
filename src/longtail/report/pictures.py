"""The pictures of a report: confused classes, images that are wrong or doubtful, test images that resemble training images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from ..data.decode import CorruptImage
from ..data.images import ImageSet
from ..data.overlap import SIDE, look_alikes, thumbnail
from ..engine.prepare import Subset
from ..evaluation.predictions import Predictions
from .suspects import SHOWN
from .thumbnails import Thumbnails
from .verdict import percent

PAIRS = 12  # of confused classes that are named
EXAMPLES = 3  # pictures of each class of a pair
MOST_COMPARED = (2_000, 8_000)  # test and training images among which near-duplicates are looked for


def confused_pairs(predictions: Predictions, subset: Subset | None, thumbnails: Thumbnails) -> Iterator[dict[str, Any]]:
    """The commonest confusions, by the share of a class's images, each of two images or more where there are such."""
    pairs, times = predictions.confusions
    back = {(int(a), int(b)): int(n) for (a, b), n in zip(pairs, times, strict=True)}
    share = times / predictions.tested[pairs[:, 0]] if len(pairs) else times
    if (times > 1).any():
        pairs, times, share = pairs[times > 1], times[times > 1], share[times > 1]

    def pictures(c: int) -> list[str]:
        if subset is None:
            return []
        members = np.flatnonzero(subset.train.labels == c)[:EXAMPLES]
        return [uri for i in members if (uri := thumbnails.uri(subset.train, int(i)))]

    for place in np.lexsort((-times, -share))[:PAIRS]:
        true, predicted = map(int, pairs[place])
        yield {
            "true": predictions.classes.names[true],
            "predicted": predictions.classes.names[predicted],
            "times": f"{times[place]:,}",
            "images": f"{predictions.tested[true]:,}",
            "share": percent(share[place]),
            "back": percent(back.get((predicted, true), 0) / max(predictions.tested[predicted], 1)),
            "of_true": pictures(true),
            "of_predicted": pictures(predicted),
        }


class Gallery:
    """Held-out images with what was said of them."""

    def __init__(self, predictions: Predictions, images: ImageSet | None, thumbnails: Thumbnails) -> None:
        self.predictions, self.images, self.thumbnails = predictions, images, thumbnails
        self.position: dict[str, int] = {}
        if images is not None and len(images) != len(predictions):  # unreadable ones were left out
            self.position = {images.key(i): i for i in range(len(images))}

    def uri(self, row: int) -> str | None:
        return None if self.images is None else self.thumbnails.uri(self.images, self.place(row))

    def rows_of_rarest(self, most: int) -> np.ndarray:
        """At most `most` rows whose images can be shown, those of the rarest classes first."""
        rank = np.argsort(self.predictions.order[::-1])
        return np.argsort(rank[self.predictions.labels], kind="stable")[:most]

    def place(self, row: int) -> int:
        """Where among the split's images row `row` of the predictions is."""
        return self.position[self.predictions.images[row]] if self.position else row

    def show(self, rows: np.ndarray) -> list[dict[str, Any]]:
        p, names = self.predictions, self.predictions.classes.names
        return [
            {
                "uris": [self.uri(row)],
                "alt": f"{p.images[row]}, labelled {names[p.labels[row]]}",
                "lines": [
                    f"{names[p.labels[row]]} ({percent(p.label_probability[row])})",
                    f"taken for {names[p.predicted[row]]} ({percent(p.probability[row])})",
                    p.images[row],
                ],
            }
            for row in rows.tolist()
        ]


def duplicates(predictions: Predictions, subset: Subset | None, gallery: Gallery) -> dict[str, Any]:
    """Test images that are nearly training images, looked for among so many that it takes seconds."""
    if subset is None or gallery.images is None:
        return {"about": "Not looked for, as there are no pictures.", "pictures": []}
    rows = gallery.rows_of_rarest(MOST_COMPARED[0])
    rank = np.argsort(predictions.order[::-1])
    train = np.argsort(rank[subset.train.labels], kind="stable")[: MOST_COMPARED[1]]
    places = [gallery.place(row) for row in rows.tolist()]
    ours, theirs = _thumbnails(subset.train, train.tolist()), _thumbnails(gallery.images, places)
    found = look_alikes(ours, theirs)
    likeness = np.einsum("np,np->n", ours[found[:, 0]], theirs[found[:, 1]])
    of_all = f"{len(rows):,} of {len(predictions):,} {predictions.split} and {len(train):,} of {len(subset.train):,}"
    about = (
        f"{len(found):,} found among {of_all} training images, rarest classes first. Nearly the same picture in both makes "
        "the accuracy look better than it is."
    )
    names = predictions.classes.names
    pictures = []
    for place in np.argsort(-likeness, kind="stable")[: SHOWN // 2]:
        of_train, of_test = int(train[found[place, 0]]), int(rows[found[place, 1]])
        labels = names[predictions.labels[of_test]], names[subset.train.labels[of_train]]
        pictures.append(
            {
                "uris": [gallery.uri(of_test), gallery.thumbnails.uri(subset.train, of_train)],
                "alt": f"{predictions.images[of_test]} or {subset.train.key(of_train)}",
                "lines": [
                    labels[0] if labels[0] == labels[1] else f"{labels[0]}, in training {labels[1]}",
                    f"correlation {likeness[place]:.4f}",
                    predictions.images[of_test],
                    subset.train.key(of_train),
                ],
            }
        )
    return {"about": about, "pictures": pictures}


def _thumbnails(images: ImageSet, rows: list[int]) -> np.ndarray:
    """What the images at `rows` are recognised by, float32 [N, 256]; zeros, like no other, for one that cannot be read."""
    made = np.zeros((len(rows), SIDE * SIDE), np.float32)
    for place, row in enumerate(rows):
        with suppress(CorruptImage):
            made[place] = thumbnail(images.image(row, 3, at_least=(2 * SIDE, 2 * SIDE)))
    return made
