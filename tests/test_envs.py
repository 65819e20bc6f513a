"""The environments: one truth, exact versions, nothing of the machine that resolved them."""

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ENVS = Path(__file__).parents[1] / "envs"
LOCKS = sorted(path for path in ENVS.glob("*.lock"))
PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!+]*")


def pins(path):
    lines = path.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_everything_is_pinned_exactly(lock):
    found = pins(lock)
    assert len(found) > (5 if lock.name == "oracles.lock" else 20)
    for line in found:
        assert PIN.fullmatch(line), f"{lock.name}: {line}"
        assert "+" not in line, f"{lock.name}: {line} is a build of some machine"
    names = [canonical(line.split("==")[0]) for line in found]
    assert len(names) == len(set(names)), "a package is pinned twice"


@pytest.mark.parametrize("path", sorted(ENVS.iterdir()), ids=lambda path: path.name)
def test_no_registry_and_no_local_path_in_an_environment(path):
    if path.is_file() and path.suffix != ".py":
        found = re.findall(r"https?://\S+|file:\S+|--\w*index\S*|--find-links\S*|(?:^|\s)/[\w/.-]+", path.read_text())
        assert not found, f"{path.name} names {found}"


def test_the_conda_environment_holds_the_same_versions():
    conda = yaml.safe_load((ENVS / "environment.yaml").read_text())
    *packages, pip = conda["dependencies"]
    assert pip["pip"] == pins(ENVS / "requirements.lock")
    assert packages == ["python=3.11", "pip"]
    assert conda["channels"] == ["conda-forge"]


def test_what_is_asked_for_is_locked():
    runtime = {canonical(line.split("==")[0]): line for line in pins(ENVS / "requirements.lock")}
    both = runtime | {canonical(line.split("==")[0]): line for line in pins(ENVS / "dev.lock")}
    for source, locked in (("requirements.in", runtime), ("dev.in", both)):
        for line in pins(ENVS / source):
            name, _, version = line.partition("==")
            assert canonical(name) in locked, f"{name} of {source} is not locked: make lock"
            assert not version or locked[canonical(name)].endswith(f"=={version}")


def test_the_tests_run_on_the_locked_versions():
    """What was tested is what users get; packages of other platforms may be missing here."""
    if Path(sys.prefix).name != ".venv":
        pytest.skip("not in the environment that `make setup` builds")
    wrong = []
    for line in pins(ENVS / "requirements.lock"):
        name, version = line.split("==")
        found = metadata.version(name)
        if found.split("+")[0] != version:
            wrong.append(f"{name} {found}, locked {version}")
    assert not wrong


@pytest.mark.slow
def test_no_known_vulnerability():
    """pip-audit, where it reaches its service."""
    program = shutil.which("pip-audit", path=str(Path(sys.executable).parent)) or shutil.which("pip-audit")
    if program is None:
        pytest.skip("pip-audit is not installed")
    done = subprocess.run(
        [program, "--no-deps", "--disable-pip", "--progress-spinner=off", "-f", "json",
         "-r", ENVS / "requirements.lock"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        pytest.skip(f"pip-audit could not ask: {(done.stderr.strip() or 'no answer').splitlines()[-1][:200]}")
    asked = [package for package in packages if "skip_reason" not in package]
    if len(asked) < 0.9 * len(packages):
        pytest.skip(f"pip-audit could ask about {len(asked)} of {len(packages)} packages only")
    assert not [(p["name"], [v["id"] for v in p["vulns"]]) for p in asked if p["vulns"]]
