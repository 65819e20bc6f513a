"""How the workflow grows: sequences, shards, and what a small job costs before it does anything.

Prints JSON:
- data_stages: for each number of sequences, CPU seconds and peak memory [MB] of every data job (sequences to
  activations), read from files in the same number of chunks throughout, so that each job's share grows with the run.
  Snakemake samples a job's CPU time, so a stage's is rough; `all` is what the kernel counts for the whole run.
  For each stage and all: cpu_ms_per_sequence of the step from the size before (a job's start-up cancels out); spread,
  the largest over the smallest of these, minus 1; memory_growth, the peak of the stage's largest job in the largest
  run over that in the smallest, minus 1.
- dag: seconds of a dry-run with so many shards, and its CPU seconds.
- start: CPU seconds until each script has its imports; and what Snakemake adds to a job: on one machine (local), and
  as a cluster starts it (remote: a new Snakemake parses the workflow).

    python tests/benchmarks/scaling.py [--sizes 1000,4000,16000] [--shards 10000] [--only data_stages,dag,start]
"""

import argparse
import csv
import itertools
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
STAGES = {
    "sequences": ("read_sequences", "merge_sequences"),
    "numbering": ("number", "merge_numbering"),
    "splits": ("split",),
    "activations": ("harvest", "manifest"),
}


def chains(n: int, seed: int = 0) -> list[str]:
    """Different human heavy chains: V and J germline around a random CDR3, 5 % of the residues mutated."""
    from anarci.germlines import all_germlines

    rng = random.Random(seed)
    v, j = (sorted({g.replace("-", "") for g in all_germlines[kind]["H"]["human"].values()}) for kind in "VJ")
    found: dict[str, None] = {}
    while len(found) < n:
        text = rng.choice(v) + "".join(rng.choices(RESIDUES, k=rng.randint(3, 14))) + rng.choice(j)
        found["".join(rng.choice(RESIDUES) if rng.random() < 0.05 else residue for residue in text)] = None
    return list(found)


def snakemake(folder: Path, config: dict, *arguments: str) -> tuple[float, float]:
    """Run Snakemake; wall and CPU seconds. Ends the benchmark with its output if it fails."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-d", str(folder)]
    command += ["--cores", "2", *arguments, "--configfile", str(path)]  # which would take targets after it for files
    start, before = time.monotonic(), used()
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-5000:])
    return time.monotonic() - start, used() - before


def used() -> float:
    """CPU seconds of the processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def data_stages(sizes: list[int]) -> dict:
    jobs: dict[int, dict[str, dict[str, float]]] = {}
    whole: dict[int, float] = {}
    pool = chains(max(sizes))
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            paths = []
            for chunk in range(2):
                paths.append(str(folder / f"{chunk}.csv"))
                with open(paths[-1], "w", newline="") as file:
                    writer = csv.writer(file)
                    writer.writerow(["id", "heavy"])
                    writer.writerows((f"a{i}", pool[i]) for i in range(chunk, size, 2))
            config = {
                "run": "scaling",
                "model": {"name": "iglm-s", "dtype": "float32"},
                "sequences": {"source": "file", "paths": paths, "chunks": 2, "min_length": 60},
                "numbering": {"chunks": 2},
                "activations": {"shards": 2},
            }
            targets = ("activations/layer2/manifest.json", "splits/antibodies.parquet")
            _, whole[size] = snakemake(folder, config, *(f"results/scaling/{target}" for target in targets))
            jobs[size] = {}
            for path in (folder / "results" / "scaling" / "benchmarks").glob("*.tsv"):
                row = next(csv.DictReader(path.open(), delimiter="\t"))
                rule = re.sub(r"-.*", "", path.stem)
                job = jobs[size].setdefault(rule, {"cpu_s": 0.0, "peak_mb": 0.0})
                job["cpu_s"] += float(row["cpu_time"])
                job["peak_mb"] = max(job["peak_mb"], float(row["max_rss"]))
    found: dict = {"jobs": jobs, "stages": {}}
    steps = list(itertools.pairwise(sizes))
    for stage, rules in {**STAGES, "all": tuple(rule for names in STAGES.values() for rule in names)}.items():
        cpu = whole if stage == "all" else {size: sum(jobs[size][rule]["cpu_s"] for rule in rules) for size in sizes}
        marginal = [1000 * (cpu[b] - cpu[a]) / (b - a) for a, b in steps]
        peaks = [max(jobs[size][rule]["peak_mb"] for rule in rules) for size in (sizes[0], sizes[-1])]
        found["stages"][stage] = {
            "cpu_ms_per_sequence": [round(value, 3) for value in marginal],
            "spread": round(max(marginal) / min(marginal) - 1, 3),
            "memory_growth": round(peaks[1] / peaks[0] - 1, 3),
        }
    return found


def dag(shards: int) -> dict:
    with tempfile.TemporaryDirectory() as name:
        wall, cpu = snakemake(
            Path(name), {"run": "dag", "model": {"name": "iglm-s"}, "activations": {"shards": shards}}, "-n", "-q"
        )
    return {"shards": shards, "seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}


def cpu_seconds(command: list[str], folder: Path) -> float:
    """CPU seconds, least of three runs, of a command and what it starts."""
    found = []
    for _ in range(3):
        before = used()
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow" / "lib"), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
        found.append(used() - before)
    return round(min(found), 2)


SMALL = """
rule all:
    input: expand("{i}.txt", i=range(int(config["n"])))
rule one:
    output: "{i}.txt"
    script: "one.py"
"""


def start() -> dict:
    """Each script ends at `globals()["snakemake"]`, right after its imports."""
    scripts = {
        path.stem: cpu_seconds([sys.executable, str(path)], ROOT)
        for path in sorted((ROOT / "workflow" / "scripts").glob("*.py"))
        if 'globals()["snakemake"]' in path.read_text()
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "Snakefile").write_text(SMALL)
        (folder / "one.py").write_text('open(globals()["snakemake"].output[0], "w").close()\n')
        base = [sys.executable, "-m", "snakemake", "--cores", "1", "--forceall", "--config"]
        few, many = (cpu_seconds([*base, f"n={n}"], folder) for n in (1, 11))
        parse = cpu_seconds(
            [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-n", "-q", "-d", name], ROOT
        )
    return {"scripts": scripts, "snakemake": {"local": round((many - few) / 10, 2), "remote": parse}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,4000,16000")
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--only", default="data_stages,dag,start")
    options = parser.parse_args()
    parts = {
        "data_stages": lambda: data_stages([int(size) for size in options.sizes.split(",")]),
        "dag": lambda: dag(options.shards),
        "start": start,
    }
    print(json.dumps({name: parts[name]() for name in options.only.split(",")}, indent=2))
