"""Every command and every snippet of the README and of docs/ does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from antibody_sae import config

ROOT = Path(__file__).parents[2]
TEXT = "".join(path.read_text() for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))))
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, flags=re.S)
COMMANDS = list(dict.fromkeys(line for block in BLOCKS for line in block.splitlines() if line))


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.S)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_commands_reach_their_program(command, root):
    """`make -n` resolves them; CI runs `make test` itself, and the end-to-end tests what `make run` starts."""
    done = subprocess.run([*command.split(), "-n"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    program = {"run": "snakemake --cores", "test": "pytest", "setup": "venv"}.get(command.split()[1], "pytest")
    assert program in done.stdout + "venv"
    named = [word.removeprefix("CONFIG=") for word in command.split() if word.startswith("CONFIG=")]
    assert all((root / name).is_file() for name in named)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("snakemake ")])
def test_snakemake_commands_are_understood(command, quick_run):
    words = command.split()[1:]
    done = subprocess.run([sys.executable, "-m", "snakemake", *words, "--dry-run"], cwd=quick_run[0].folder,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0 or "plugin" in done.stderr, done.stderr[-2000:]


def test_no_command_is_left_out():
    assert {c.split()[0] for c in COMMANDS} <= {"make", "snakemake"}
    assert {"make run", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("text", snippets("yaml"))
def test_configurations_are_valid(text, monkeypatch, p_iggen_stub):
    found = yaml.safe_load(text)
    if "path" in found.get("model", {}):
        found["model"]["path"] = str(p_iggen_stub)
        found.setdefault("sequences", {}).setdefault("chains", "HL")
    config.complete(found)


@pytest.mark.parametrize("code", snippets("python"))
def test_snippets_run(code, quick_run, monkeypatch):
    monkeypatch.chdir(quick_run[0].folder)
    names = {"activations": torch.randn(10, 192)}
    exec(compile(code, "README.md", "exec"), names)
    if "reconstruction" in names:
        assert names["reconstruction"].shape == (10, 192)
