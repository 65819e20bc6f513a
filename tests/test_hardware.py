"""Which number format is multiplied in hardware: by the chip, and by the variables that hold a newer one back."""

import os
import subprocess
import sys

import pytest
import torch
from antibody_sae import hardware
from antibody_sae.models import model as models
from harness import AVX2


@pytest.fixture
def new_chip(monkeypatch):
    for name in AVX2:
        monkeypatch.delenv(name, raising=False)
    chip = {"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: chip)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    return chip


def test_a_chip_with_bfloat16(new_chip):
    assert hardware.fast_dtype() == "bfloat16"
    assert hardware.instruction_set() == "AVX512 with bfloat16"


def test_a_chip_whose_bfloat16_is_slower_than_its_float32(new_chip):
    new_chip["amx_bf16"] = False  # a virtual machine whose host hides it
    assert hardware.bfloat16_in_hardware()
    assert hardware.fast_dtype() == "float32"


@pytest.mark.parametrize(
    ("isa", "has", "fast"),
    [
        ("AVX2", False, "float32"),
        ("AVX512_CORE_VNNI", False, "float32"),
        ("AVX512_CORE_BF16", True, "float32"),
        ("AVX512_CORE_AMX", True, "bfloat16"),
    ],
)
def test_onednn_held_back(new_chip, monkeypatch, isa, has, fast):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert (hardware.bfloat16_in_hardware(), hardware.fast_dtype()) == (has, fast)


def test_aten_held_back(new_chip, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert hardware.fast_dtype() == "float32"
    assert hardware.instruction_set() == "AVX2"


def test_gpus_by_capability(monkeypatch):
    for capability, has in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert hardware.bfloat16_in_hardware("cuda") == has


def test_variables_act_on_torch_itself():
    """In a process of its own, because torch reads them once."""
    code = "from antibody_sae import hardware; print(hardware.instruction_set(), hardware.fast_dtype())"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **AVX2}, capture_output=True, text=True)
    assert done.stdout.split() == ["AVX2", "float32"], done.stderr


def test_auto_is_what_the_hardware_has(iglm_s):
    assert models.load({"name": "iglm-s"}).dtype_name == hardware.fast_dtype()
    assert models.load({"name": "iglm-s", "dtype": "float16"}).dtype_name == "float16"


@pytest.mark.parametrize(("slower", "said"), [(1.6, "1.6 times as long"), (150.0, "150 times as long"), (0.6, None)])
def test_an_explicit_bfloat16_is_warned_of_where_it_is_slower(new_chip, monkeypatch, slower, said):
    assert hardware.slower_than_auto("bfloat16") is None, "fast here"
    new_chip["amx_bf16"] = False
    monkeypatch.setattr(hardware, "bfloat16_slowdown", lambda device: slower)
    warning = hardware.slower_than_auto("bfloat16")
    assert warning is None if said is None else said in warning
    assert hardware.slower_than_auto("float32") is None


def test_the_slowdown_is_measured():
    assert 0.01 < hardware.bfloat16_slowdown() < 10_000
