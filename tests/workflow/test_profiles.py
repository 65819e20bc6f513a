"""The profiles: every rule says what it needs, more of it at each attempt, and schedulers are asked for that."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from harness import ROOT, Run, all_rules, environment, fingerprint

PROFILES = ROOT / "workflow" / "profiles"
RULE = re.compile(r"^( *)rule (\w+):\n((?:\1 +.*\n|\s*\n)+)", flags=re.M)
COMPUTING = {
    "generate", "harvest", "train_sae", "evaluate_sae", "steer_levers", "steer_generate", "steer_ablation",
    "steer_trained_sparse", "steer_alternatives", "design",
}  # fmt: skip


def rules():
    found = {match[2]: match[3] for match in RULE.finditer(all_rules() + "\n")}
    return {name: text for name, text in found.items() if "output:" in text}  # the others are targets


def test_rules_are_found():
    assert {"generate", "number", "split", "harvest", "train_sae", "associate", "report"} <= set(rules())


@pytest.mark.parametrize("rule", sorted(rules()))
def test_a_rule_says_what_it_needs(rule):
    """Threads, memory and time as functions of input size and attempt, a log, a benchmark, the hash of its code."""
    text = rules()[rule]
    for directive in ("output", "log", "benchmark", "threads", "resources", "params", "script"):
        assert re.search(rf"^\s*{directive}:", text, flags=re.M), f"{rule} has no {directive}"
    assert re.search(r"mem_mb=memory\(", text), f"{rule}: mem_mb grows with the input and the attempt"
    assert re.search(r"runtime=minutes\(", text), f"{rule}: runtime grows with the attempt"
    assert re.search(r"code=code\(", text), f"{rule}: its params hold the hash of its code"
    assert ("gpu=0" in text) == (rule in COMPUTING), f"{rule}: gpu is what a profile sets"
    assert "shell:" not in text


def test_memory_and_time_grow_with_input_and_attempt():
    text = (ROOT / "workflow" / "rules" / "common.smk").read_text()
    functions = text[text.index("def memory(") :]
    scope = {}
    exec(functions, scope)  # plain Python from the end of common.smk
    size = type("Input", (), {"size_mb": 100.0})
    mem_mb, runtime = scope["memory"](1000, 3), scope["minutes"](30)
    assert [mem_mb(None, size, attempt) for attempt in (1, 2, 3)] == [1300, 1950, 2600]
    assert [runtime(None, attempt) for attempt in (1, 2, 3)] == [30, 60, 120]


@pytest.mark.parametrize("profile", sorted(path.parent.name for path in PROFILES.glob("*/config.yaml")))
def test_a_profile_explains_its_keys_and_names_real_rules(profile):
    path = PROFILES / profile / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    lines = path.read_text().splitlines()
    for key in settings:
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{key}:")]
        assert "#" in lines[at] or lines[at - 1].startswith("#"), f"{profile}: {key} is not explained"
    assert settings["rerun-incomplete"] is True
    if profile != "default":
        assert settings["retries"] >= 1, "a job that ran out of memory comes back with more"
    named = set(re.findall(r"^#   (\w+): \{gpu", path.read_text(), flags=re.M))
    named |= set(filter(None, settings.get("slurm-array-jobs", "").split(",")))
    assert named <= set(rules())
    assert profile != "slurm" or COMPUTING - {"design"} <= named


SCHEDULER = '''#!{python}
"""A scheduler that runs what it gets at once: called as kubectl or as qsub. Its first job of all dies of memory."""
import json, os, subprocess, sys
from pathlib import Path

jobs = Path({jobs!r})
name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
if name == "kubectl" and arguments[0] == "get":
    state = jobs / arguments[2]
    print(state.read_text() if state.exists() else "")
    raise SystemExit
asked = json.load(sys.stdin) if name == "kubectl" else {{"arguments": arguments}}
number = len(list(jobs.glob("*.json")))
(jobs / f"{{number:03}}.json").write_text(json.dumps(asked))
if name == "kubectl":
    command = asked["spec"]["template"]["spec"]["containers"][0]["command"]
else:
    command = ["/bin/sh", arguments[-1]]
if number == 0:
    ended = 137
    if name == "qsub":  # the script notes its own failure when what it runs is killed
        text = Path(arguments[-1]).read_text()
        failed = text[text.index("(touch ") + 7 : text.index("; exit 1)")].strip("'\\"")
        Path(failed).touch()
else:
    ended = subprocess.run(command, stdout=open(jobs / f"{{number:03}}.log", "w"), stderr=subprocess.STDOUT).returncode
(jobs / f"job-{{number}}").write_text("Failed" if ended else "Complete")
print(f"job-{{number}}")
'''


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("profile", "program"), [("kubernetes", "kubectl"), ("cluster-generic", "qsub")])
def test_jobs_are_submitted_and_come_back_with_more_memory(undisturbed, tmp_path, profile, program):
    """The first stage through a stand-in for the scheduler: what it asks for, a job lost to memory, the same bytes."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    stand_in = tmp_path / "bin" / program
    stand_in.parent.mkdir()
    stand_in.write_text(SCHEDULER.format(python=sys.executable, jobs=str(jobs)))
    stand_in.chmod(0o755)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "workflow").symlink_to(ROOT / "workflow")  # the profile names its scripts from the project's folder
    path = {**environment(), "PATH": f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"}
    run = Run(folder, profile=profile, environment=path)
    run.snakemake("--until", "merge_sequences", "--latency-wait", "5", "--jobs", "1")
    asked = [path.read_text() for path in sorted(jobs.glob("*.json"))]
    assert len(asked) == 4, "two chunks, one of them twice, and their merging"
    if profile == "kubernetes":
        limits = [
            json.loads(each)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] for each in asked
        ]
        memory = [int(each["memory"].removesuffix("M")) for each in limits]
        assert not any("nvidia.com/gpu" in each for each in limits)
        minutes = [json.loads(each)["spec"]["activeDeadlineSeconds"] // 60 for each in asked]
    else:
        memory = [int(re.search(r"m_mem_free=(\d+)M", each)[1]) for each in asked]
        minutes = [int(re.search(r"h_rt=00:(\d+):00", each)[1]) for each in asked]
    assert sorted(memory[:3]) == [2500, 2500, 3750]
    assert sorted(minutes[:3]) == [240, 240, 480]
    file = "sequences/antibodies.parquet"
    assert fingerprint(run.results)[file] == fingerprint(undisturbed.results)[file]


def test_kubernetes_jobs_get_gpu_and_volume(tmp_path):
    """The manifest of a GPU job, with a rule's name that Kubernetes would not take as it is."""
    program = tmp_path / "kubectl"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/job.json\necho sae-train-sae-x1\n")
    program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, PROFILES / "kubernetes" / "submit.py", "--image", "i", "--claim", "c", "--mount", "/data",
         "--rule", "train_sae", "--cpu", "2", "--memory-mb", "4000", "--minutes", "60", "--gpu", "1", "a script.sh"],
        env={**environment(), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "sae-train-sae-x1"
    job = json.loads((tmp_path / "job.json").read_text())
    assert re.fullmatch(r"[a-z0-9-]+", job["metadata"]["generateName"])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "4000M", "nvidia.com/gpu": 1}
    assert container["command"] == ["/bin/sh", "a script.sh"]
    assert job["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "c"}
