"""What this machine multiplies in hardware, as torch will use it: the answer behind every `auto` of a number format."""

from __future__ import annotations

import os
import platform
import time

import torch

_WITH_TILES = ("AMX", "AVX10_2", "ALL", "DEFAULT")
"""Parts of the values of ONEDNN_MAX_CPU_ISA that leave oneDNN its matrix tiles."""
_WITH_BFLOAT16 = ("BF16", "FP16", "AVX10", *_WITH_TILES)
"""Parts of those that leave it its bfloat16 products."""


def _onednn_may(parts: tuple[str, ...]) -> bool:
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "DEFAULT")).upper()
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and any(part in allowed for part in parts)


def bfloat16_in_hardware(device: str | torch.device = "cpu") -> bool:
    """Whether torch multiplies bfloat16 matrices there in hardware.

    On a CPU without it (x86 before avx512_bf16 and AMX, so nearly every laptop) such a product is over a hundred times
    slower than in float32. ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA, which hold a newer processor to the instructions
    of an older one, count as much as the chip. CUDA has it from capability 8 on, Apple's MPS from macOS 14 on.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    chip = torch.cpu.get_capabilities()
    if chip.get("architecture") != "x86_64":  # oneDNN with Arm's Compute Library; torch has none on Apple's processors
        return bool(chip.get("bf16")) and platform.system() == "Linux"
    return bool(chip.get("avx512_bf16") or chip.get("amx_bf16")) and _onednn_may(_WITH_BFLOAT16)


def fast_dtype(device: str | torch.device = "cpu") -> str:
    """What `auto` means there: bfloat16 where its products are in hardware and faster than float32's, else float32.

    An x86 processor needs AMX for that: with avx512_bf16 alone (a Xeon whose host hides AMX, measured) a product in
    bfloat16 takes 1.5 to 1.7 times as long as in float32. By the chip and not by a stopwatch, so that jobs agree.
    """
    chip = torch.cpu.get_capabilities() if torch.device(device).type == "cpu" else {}
    if chip.get("architecture") == "x86_64" and not (chip.get("amx_bf16") and _onednn_may(_WITH_TILES)):
        return "float32"
    return "bfloat16" if bfloat16_in_hardware(device) else "float32"


def instruction_set(device: str | torch.device = "cpu") -> str:
    """What a figure was measured on, such as "AVX2" or "AVX512 with bfloat16"."""
    device = torch.device(device)
    name = torch.backends.cpu.get_cpu_capability()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type != "cpu":
        name = device.type
    return name + (" with bfloat16" if bfloat16_in_hardware(device) else "")


def bfloat16_slowdown(device: str | torch.device = "cpu") -> float:
    """How many times slower than in float32 a small bfloat16 product is there; 0.2 s at most where it is slow."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(32, 256, dtype=dtype, device=device), torch.ones(256, 256, dtype=dtype, device=device)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            (a @ b)[0, 0].item()  # which waits for a GPU
            best = min(best, time.perf_counter() - start)
        seconds[dtype] = best
    return seconds[torch.bfloat16] / seconds[torch.float32]


def slower_than_auto(dtype: str, device: str | torch.device = "cpu") -> str | None:
    """What to say of bfloat16 where `auto` avoids it, rightly so by the clock."""
    if dtype != "bfloat16" or fast_dtype(device) == "bfloat16":
        return None
    slower = bfloat16_slowdown(device)
    if slower <= 1.1:
        return None
    return f"on this {torch.device(device).type} products in bfloat16 take {slower:.3g} times as long as in float32"
