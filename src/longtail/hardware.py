"""What this machine computes with."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def device_name(device: torch.device) -> str:
    """The marketing name of the processor that computes, with the core count for a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line), name
        )
    return f"{name}, {cores()} cores"


def cores() -> int:
    """Of the CPU, those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
