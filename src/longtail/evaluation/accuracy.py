"""Accuracy, by class and by shot, and calibration, accumulated batch by batch without holding the scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from ..classes import SHOTS, Classes
from ..errors import LongtailError


class Evaluator:
    """Accumulates scores on the device they are on; memory grows with classes, not with images.

    `classes` are the training classes, or their numbers of training images, which say which are many, medium and few. `bins`
    is the number of equal-width confidence bins of the calibration error. Feed `update`, then `reduce` over processes, then
    `compute`.

    >>> evaluator = Evaluator([500, 50, 5])
    >>> evaluator.update(torch.eye(3), torch.tensor([0, 1, 1]))
    >>> metrics = evaluator.compute()
    >>> metrics["class_balanced"], metrics["many"], metrics["medium"], metrics["few"]
    (0.75, 1.0, 0.5, None)
    """

    def __init__(self, classes: Classes | Sequence[int], bins: int = 15) -> None:
        if not isinstance(classes, Classes):
            classes = Classes(tuple(map(str, range(len(classes)))), tuple(int(count) for count in classes))
        self.classes = classes
        self.bins = bins
        # One tensor, so that one all-reduce sums everything; float64, to lose no count and no small term of a long sum.
        self._sums = torch.zeros(3 * len(classes) + bins + 3, dtype=torch.float64)

    def to(self, device: torch.device | str) -> Evaluator:
        """Move to where the scores will be. Returns itself."""
        apple = torch.device(device).type == "mps"  # has no float64
        self._sums = self._sums.to(device, torch.float32 if apple else torch.float64)
        return self

    def _parts(self) -> tuple[Tensor, ...]:
        """Views of the sums. Per class [C]: images, hits, predictions. Per confidence bin: hits less confidence.
        Scalars [1]: top-5 hits, negative log-likelihood, images whose scores are not numbers."""
        return self._sums.split([len(self.classes)] * 3 + [self.bins] + [1] * 3)

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: scores float [B, C] and labels int64 [B] in 0..C-1. Does not wait for the device.

        Among equal scores the class with the lower number comes first.
        """
        images, hits, predictions, gaps, top5, nll, invalid = self._parts()
        log_probabilities = logits.float().log_softmax(1)
        predicted = logits.argmax(1)
        confidence = log_probabilities.amax(1).to(self._sums.dtype).exp()
        hit = (predicted == labels).to(self._sums.dtype)
        one = torch.ones_like(hit)
        images.index_add_(0, labels, one)
        hits.index_add_(0, labels, hit)
        predictions.index_add_(0, predicted, one)

        # Bin b holds the confidences in (b / bins, (b + 1) / bins]. A NaN goes to bin 0, and `compute` refuses the lot.
        bin_index = ((confidence * self.bins).ceil().nan_to_num() - 1).clamp(0, self.bins - 1).long()
        gaps.index_add_(0, bin_index, hit - confidence)

        own = logits.gather(1, labels[:, None])
        lower = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
        rank = ((logits > own) | ((logits == own) & lower)).sum(1)
        top5 += (rank < 5).sum()
        nll -= log_probabilities.gather(1, labels[:, None]).to(self._sums.dtype).sum()
        invalid += confidence.isnan().sum()

    def reduce(self) -> None:
        """Sum over the processes of a distributed run; nothing to do in a single one."""
        if distributed.is_initialized():
            distributed.all_reduce(self._sums)

    def compute(self) -> dict[str, Any]:
        """The metrics, as plain numbers. Accuracies are fractions in 0..1, and None where no test image can tell.

        - ``top1``, ``top5``: over images. ``top5`` is None with five classes or fewer.
        - ``per_class``: list of C accuracies. ``class_balanced``: their mean over the classes with test images.
        - ``many``, ``medium``, ``few``: mean over the classes of that shot, as Liu et al. (CVPR 2019) compute it. On a
          balanced test set this is the accuracy over their images too.
        - ``worst_tenth``: mean over the tenth of those classes (rounded up) that has the lowest accuracies.
        - ``harmonic_mean``: of the accuracies of those classes; 0 where one of them is.
        - ``macro_f1``: mean over the classes with test images.
        - ``nll``: mean negative log-likelihood of the softmax, in nats.
        - ``ece``: expected calibration error of the softmax's highest probability (Guo et al., ICML 2017).
        - ``images``: how many were evaluated.

        Raises `LongtailError` if there were no images, or if scores were not numbers.
        """
        images, hits, predictions, gaps, top5, nll, invalid = (part.cpu() for part in self._parts())
        total = images.sum().item()
        if total == 0:
            raise LongtailError("Nothing to evaluate: no image was seen. Check that the test set is not empty.")
        if invalid.item():
            raise LongtailError(
                f"The scores of {invalid.item():.0f} of {total:.0f} evaluated images are not finite numbers. "
                "The weights have probably diverged: lower the learning rate or clip gradients, and train again."
            )
        tested = images > 0
        accuracy = hits / images
        f1 = 2 * hits / (images + predictions)
        metrics: dict[str, Any] = {
            "top1": (hits.sum() / total).item(),
            "top5": (top5 / total).item() if len(self.classes) > 5 else None,
            "class_balanced": accuracy[tested].mean().item(),
        }
        for shot in SHOTS:
            of_shot = accuracy[tested & torch.tensor([s == shot for s in self.classes.shots])]
            metrics[shot] = of_shot.mean().item() if len(of_shot) else None
        lowest = accuracy[tested].sort().values
        metrics["worst_tenth"] = lowest[: -(-len(lowest) // 10)].mean().item()
        metrics["harmonic_mean"] = (1 / (1 / lowest).mean()).item()
        return metrics | {
            "macro_f1": f1[tested].mean().item(),
            "nll": (nll / total).item(),
            "ece": (gaps.abs().sum() / total).item(),
            "images": int(total),
            "per_class": [
                value if seen else None for value, seen in zip(accuracy.tolist(), tested.tolist(), strict=True)
            ],
        }
