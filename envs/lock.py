"""Resolve envs/*.in into exact locks, and write the conda environment from the same versions."""

import json
import subprocess
import sys
from pathlib import Path

ENVS = Path(__file__).parent
GPU_ONLY = ("nvidia-", "cuda-", "triton")  # torch's published build brings its own; the CPU build has none


def resolve(*arguments: str) -> dict[str, str]:
    """Package versions that pip would install."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    report = json.loads(subprocess.run([*command, *arguments], check=True, capture_output=True, text=True).stdout)
    found = {i["metadata"]["name"].lower(): i["metadata"]["version"].split("+")[0] for i in report["install"]}
    return {name: version for name, version in sorted(found.items()) if not name.startswith(GPU_ONLY)}


def main() -> None:
    runtime = resolve("-r", str(ENVS / "requirements.in"))
    pins = "".join(f"{name}=={version}\n" for name, version in runtime.items())
    (ENVS / "requirements.lock").write_text("# Made by `make lock` from requirements.in.\n" + pins)
    extras = {}
    for kind in ("dev", "oracles"):
        both = resolve("-r", str(ENVS / "requirements.lock"), "-r", str(ENVS / f"{kind}.in"))
        extras[kind] = "".join(f"{name}=={version}\n" for name, version in both.items() if name not in runtime)
        (ENVS / f"{kind}.lock").write_text(f"# Made by `make lock` from {kind}.in.\n" + extras[kind])
    for name, locks, found in (
        ("environment", "requirements.lock", pins),
        ("oracles", "requirements.lock and oracles.lock", pins + extras["oracles"]),
    ):
        (ENVS / f"{name}.yaml").write_text(
            f"# Made by `make lock`: the versions of {locks} for `snakemake --sdm conda`.\n"
            "channels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n"
            + "".join(f"      - {line}\n" for line in found.splitlines())
        )


if __name__ == "__main__":
    main()
