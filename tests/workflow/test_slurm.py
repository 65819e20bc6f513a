"""The tiny run on a real Slurm: the same results as on two local cores, and nothing lost when a job is cancelled."""

import re
import subprocess
import time

import pytest
import slurm
import yaml
from harness import ROOT, TINY, Run, differences, end, environment, fingerprint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
PROFILE = ROOT / "workflow" / "profiles" / "slurm" / "config.yaml"
SITE = [  # of a cluster without accounting, with a file system that is seen at once
    "--slurm-no-account", "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2",
    "--latency-wait", "5", "--seconds-between-status-checks", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    try:
        with slurm.cluster(tmp_path_factory.mktemp("slurm")) as found:
            yield {**environment(), "PATH": found["PATH"]}
    except slurm.Unavailable as reason:
        pytest.skip(f"Slurm: {reason}")


def queue(cluster, *what):
    """Rows of squeue: job id, state, comment (which names the rule)."""
    done = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--format=%i|%T|%k", *what],
        env=cluster, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line.split("|") for line in done.stdout.splitlines()]


def details(cluster, rule):
    """What Slurm knows of a rule's first job."""
    job = next(job for job, _, comment in queue(cluster) if comment.startswith(f"rule_{rule}"))
    done = subprocess.run(["scontrol", "show", "job", job], env=cluster, capture_output=True, text=True, check=True)
    return done.stdout


def running(cluster, rule, process):
    """Id of the rule's first running job; waits for it."""
    while process.poll() is None:
        for job, state, comment in queue(cluster):
            if state == "RUNNING" and comment.startswith(f"rule_{rule}"):
                return job
        time.sleep(0.3)
    raise AssertionError(f"Snakemake ended before {rule} ran: {process.communicate()[0][-3000:]}")


def test_slurm_runs_equal_local_runs_and_continue_after_scancel(cluster, undisturbed, tmp_path):
    """The whole run through the profile, GPUs asked for, with one training cancelled midway."""
    settings = yaml.safe_load(TINY.read_text())
    settings["saes"]["shared"]["checkpoint_seconds"] = 0.05  # not one of the settings that results depend on
    run = Run(tmp_path, profile="slurm", environment=cluster)
    once = ["--retries", "0", "--set-resources", "train_sae:gpu=1", *SITE]
    process = run.start("--until", "train_sae", *once)
    try:
        job = running(cluster, "train_sae", process)
        checkpoints = run.folder / "results" / "tiny" / "checkpoints" / "saes"
        while process.poll() is None and not list(checkpoints.rglob("*.safetensors")):
            time.sleep(0.05)
        subprocess.run(["scancel", job], env=cluster, check=True)
        said = process.communicate(timeout=900)[0]
    finally:
        end(process)
    assert process.returncode != 0, said[-3000:]
    assert "Error in rule train_sae" in said
    assert [row for row in queue(cluster) if row[0] == job and row[1] == "CANCELLED"]
    assert "gpu:1" in details(cluster, "train_sae"), "a GPU where the profile asks for one"
    assert "gpu" not in details(cluster, "number")
    assert "ArrayJobId=" in details(cluster, "number"), "the chunks are one submission"
    left = list(checkpoints.rglob("*.safetensors"))
    assert left, "the cancelled training left its checkpoint"

    run.snakemake(*once[2:])
    resumed = [p.read_text() for p in (run.results / "logs").glob("train_sae-*.log")]
    assert any(re.search(r"continuing from step [1-9]", text) for text in resumed), resumed
    assert differences(fingerprint(undisturbed.results), fingerprint(run.results)) == []
