"""The tiny run (tests/config/tiny.yaml) in a folder of a test's own: started, killed, resumed, compared."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "config" / "tiny.yaml"
SCRIPT = re.compile(r"\.snakemake/scripts/tmp[^/]*\.(\w+)\.py$")
TIMED = {"logs", "benchmarks", "checkpoints", "report", "preflight.json"}  # these hold times: the report shows costs
HOUR = 3600
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NUMBA_CPU_NAME": "haswell",
}
"""What makes a newer x86 behave like one without AVX-512 and bfloat16."""


def environment() -> dict[str, str]:
    """This process's environment without pytest's and Slurm's marks; a thread a job; kernels compiled once."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV", "SLURM_", "SBATCH_"))}
    kernels = str(ROOT / ".venv" / "cache" / "numba")
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NUMBA_CACHE_DIR": kernels}


@dataclass(frozen=True)
class Run:
    """Snakemake on the project's own Snakefile, with results and state in `folder`."""

    folder: Path
    config: Path = TINY
    profile: str = "default"
    environment: dict[str, str] | None = None

    @property
    def results(self) -> Path:
        return self.folder / "results" / "tiny"

    def command(self, *arguments: str) -> list[str]:
        return [
            sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(self.folder),
            "--profile", str(ROOT / "workflow" / "profiles" / self.profile), "--configfile", str(self.config),
            *arguments,
        ]  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Snakemake in a process group of its own; stderr is merged into stdout."""
        return subprocess.Popen(
            self.command(*arguments), cwd=self.folder, env=self.environment or environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        """Run Snakemake to its end; returns what it said."""
        process = self.start(*arguments)
        try:
            said = process.communicate(timeout=HOUR)[0]
        except BaseException:
            end(process)
            raise
        assert not check or process.returncode == 0, said[-6000:]
        return said

    def local(self, *arguments: str, check: bool = True) -> str:
        """Run Snakemake on two cores of this machine."""
        return self.snakemake("--cores", "2", *arguments, check=check)

    def seconds(self, rule: str) -> float:
        """Longest time that a job of a rule took, from its benchmark files."""
        found = [p for p in (self.results / "benchmarks").glob("*.tsv") if re.fullmatch(rf"{rule}(-.*)?", p.stem)]
        return max((float(p.read_text().splitlines()[1].split("\t")[0]) for p in found), default=1.0)

    def rules(self) -> list[str]:
        """Rules of the finished run, in the order in which their first job started."""
        logs = sorted((self.results / "benchmarks").glob("*.tsv"), key=lambda p: p.stat().st_mtime_ns)
        known = set(re.findall(r"^\s*(?:rule|checkpoint) (\w+):", all_rules(), flags=re.M))
        return list(dict.fromkeys(rule for p in logs for rule in known if re.fullmatch(rf"{rule}(-.*)?", p.stem)))


def all_rules() -> str:
    """The workflow's rules, as text."""
    return "\n".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))


def scripts(process: subprocess.Popen[str]) -> dict[psutil.Process, str]:
    """Running scripts of a local Snakemake, with the names of their files."""
    found = {}
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                match = SCRIPT.search(" ".join(child.cmdline()))
                if match:
                    found[child] = match[1]
    return found


def end(process: subprocess.Popen[str]) -> None:
    """kill -9 a Snakemake and everything that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def alive(process: psutil.Process) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_scripts_to_end(folder: Path, seconds: float = 60) -> bool:
    """Whether every job that runs in `folder` ended by itself within the time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not orphans(folder):
            return True
        time.sleep(0.2)
    return False


def orphans(folder: Path) -> list[psutil.Process]:
    """Scripts that run in a folder, whoever started them."""
    mark = f"{folder}/.snakemake/scripts/"
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(mark in part for part in process.cmdline()) and alive(process):
                found.append(process)
    return found


def fingerprint(results: Path) -> dict[str, str]:
    """SHA-256 of every file of a run, but for those that hold times."""
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.is_file() and path.relative_to(results).parts[0] not in TIMED
    }


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Files that are not the same in two fingerprints."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
