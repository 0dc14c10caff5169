"""Peak resident memory and time of the BCE losses on the CPU, against the plain formula.

    python -m benchmarks.loss_memory

Each measurement runs in a fresh process (Linux).
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring import in_own_process, resident_bytes
from longtail.cli import run
from longtail.losses.bce import bce

RESULTS = Path(__file__).parent / "results" / "loss_memory.json"
BATCH = 256
CLASSES = (8_142, 100_000)
SHARE = 0.4  # of the classes, where they are subsampled


def plain_bce(logits: Tensor, labels: Tensor, weights: Tensor, class_mask: Tensor | None) -> Tensor:
    """The formula as one would write it, on dense targets."""
    target = torch.zeros_like(logits).scatter_add(1, labels, weights)
    scores = logits.clamp(-64, 64)
    terms = target * F.softplus(-scores) + (target == 0) * F.softplus(scores)
    return (terms if class_mask is None else terms * class_mask).sum(1).mean()


FORMULAS: dict[str, Callable[..., Tensor]] = {"longtail": bce, "plain": plain_bce}
LOSSES = {"joint": (1, False), "joint, classes subsampled": (1, True), "joint, mixed images": (2, False)}


def measure(loss: str, formula: str, classes: int) -> dict[str, float]:
    """One forward and backward pass, after a small one that loads what the operations need."""
    labels_per_image, subsampled = LOSSES[loss]

    def once(batch: int, classes: int) -> dict[str, float]:
        logits = torch.randn(batch, classes, requires_grad=True)
        labels = torch.randint(classes, (batch, labels_per_image))
        weights = torch.full(labels.shape, 1 / labels_per_image)
        class_mask = torch.rand(classes) < SHARE if subsampled else None
        Path("/proc/self/clear_refs").write_text("5")  # start VmHWM anew
        before, start = resident_bytes("VmRSS"), time.perf_counter()
        FORMULAS[formula](logits, labels, weights, class_mask).backward()
        seconds, peak = time.perf_counter() - start, resident_bytes("VmHWM") - before
        return {"peak_bytes": peak, "in_logits": round(peak / (batch * classes * 4), 2), "seconds": round(seconds, 3)}

    once(2, 10)
    return once(BATCH, classes)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file to write (default: %(default)s)")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.case:
        print(json.dumps(measure(**args.case)))
        return
    rows = []
    for classes in CLASSES:
        for loss in LOSSES:
            for formula in FORMULAS:
                case = {"loss": loss, "formula": formula, "classes": classes}
                rows.append({**case, "batch": BATCH, **in_own_process("benchmarks.loss_memory", case)})
                print(rows[-1], flush=True)
    cpu = re.search("model name.*: (.*)", Path("/proc/cpuinfo").read_text())
    about = {
        "command": "python -m benchmarks.loss_memory",
        "meaning": "peak_bytes: resident memory of forward + backward beyond the inputs, gradient included; "
        "in_logits: the same in float32 tensors of the size of the logits",
        "date": datetime.date.today().isoformat(),
        "machine": f"{cpu[1] if cpu else platform.machine()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    args.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
