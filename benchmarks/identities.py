"""Step time and peak memory of the EPL head with many identities, full and with sampled classes.

    python -m benchmarks.identities                          # 10 k, 100 k and 1 M identities; needs about 20 GB
    python -m benchmarks.identities --identities 10000 --out /tmp/identities.json

Each case runs in a process of its own: a step is forward, backward and SGD with momentum on random embeddings, the
prototypes being part of the loss.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measuring import in_own_process, peak_memory_gb
from longtail.cli import run
from longtail.engine.run import write_json
from longtail.errors import UsageError
from longtail.losses.margin_head import Epl, MarginHead

RESULTS = Path(__file__).parent / "results" / "identities.json"


def measure(identities: int, sample: float, batch: int, dim: int, steps: int, device: str) -> dict[str, float]:
    """One case. Memory is the process's peak resident set on the CPU and the allocator's peak on a GPU, in GB."""
    torch.manual_seed(0)
    head = MarginHead(identities, dim, epl=Epl(), sample=sample).to(device)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    times = []
    for step in range(steps + 1):
        embeddings = torch.randn(batch, dim, device=device, requires_grad=True)
        labels = torch.randint(identities, (batch,), device=device)
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        loss = head(embeddings, labels, epoch=10, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return {"median_step_s": sorted(times[1:])[steps // 2], "peak_memory_gb": peak_memory_gb(torch.device(device))}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--samples", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help=f"JSON file to write (default: {RESULTS} if nothing else is given)")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    common = {key: getattr(options, key) for key in ("batch", "dim", "steps", "device")}
    if options.case:
        print(json.dumps(measure(**options.case)))
        return
    if min(options.batch, options.dim, options.steps, *options.identities) < 1:
        raise UsageError("--identities, --batch, --dim and --steps must be at least 1.")
    if not all(0 < sample <= 1 for sample in options.samples):
        raise UsageError("--samples are shares of the identities, above 0 and at most 1.")

    rows = []
    for identities in options.identities:
        for sample in options.samples:
            case = {"identities": identities, "sample": sample, **common}
            row = {**case, **in_own_process("benchmarks.identities", case)}
            rows.append(row)
            print(
                f"{identities:>9,} identities, {sample:4.0%} sampled: {1000 * row['median_step_s']:8,.0f} ms a step, "
                f"{row['peak_memory_gb']:.2f} GB"
            )
    machine = {"platform": platform.platform(), "cpus": len(os.sched_getaffinity(0)), "torch": torch.__version__}
    if options.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    out = options.out or (RESULTS if options == parser.parse_args([]) else None)  # a smaller run must not replace it
    if out:
        write_json(out, {"date": date, "machine": machine, "cases": rows})


if __name__ == "__main__":
    run(main)
