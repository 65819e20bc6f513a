"""One real run of the quick configuration, in a copy of the project, shared by the tests that look at it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from harness import Run


@dataclass(frozen=True)
class Project:
    """A copy of the project that a test may edit and run."""

    folder: Path

    def snakemake(self, *arguments: str, config: str = "tests/config/quick.yaml") -> subprocess.CompletedProcess[str]:
        """Run Snakemake there as `make run` does; stderr is merged into stdout."""
        command = [
            sys.executable, "-m", "snakemake", *arguments, "--cores", "2", "--profile", "workflow/profiles/default",
            "--configfile", config,
        ]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
        environment["XDG_CACHE_HOME"] = str(self.folder / "cache")
        return subprocess.run(
            command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False,
        )  # fmt: skip

    def planned(self, change: Callable[[dict], None] | None = None) -> dict[str, int]:
        """Rules that a dry-run would run, with their number of jobs, after a change to the quick configuration."""
        config = yaml.safe_load((self.folder / "tests" / "config" / "quick.yaml").read_text())
        if change is not None:
            change(config)
        path = self.folder / "changed.yaml"
        path.write_text(yaml.safe_dump(config))
        done = self.snakemake("--dry-run", config=str(path))
        assert done.returncode == 0, done.stdout[-3000:]
        lines = done.stdout.splitlines()
        if "Job stats:" not in lines:
            assert "Nothing to be done" in done.stdout
            return {}
        table = lines[lines.index("Job stats:") + 3 :]
        rows = [line.split() for line in table[: table.index("")]]
        return {name: int(count) for name, count in rows if name not in {"total", "all"}}


def copy_project(root: Path, folder: Path) -> Project:
    """What git would hand a newcomer, without results."""
    for name in ("Snakefile", "config.yaml", "workflow", "envs", "tests/config"):
        source, target = root / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return Project(folder)


@pytest.fixture(scope="session")
def quick_run(root, tmp_path_factory) -> tuple[Project, float]:
    """The quick run, finished, and the seconds that it took."""
    project = copy_project(root, tmp_path_factory.mktemp("quick"))
    start = time.monotonic()
    done = project.snakemake()
    assert done.returncode == 0, done.stdout[-5000:]
    return project, time.monotonic() - start


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Run:
    """The tiny run, finished on two cores without a fault: what the disturbed runs must equal."""
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    run.local()
    return run
