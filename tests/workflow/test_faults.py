"""Faults at workflow level: processes killed in every stage, full disks, damaged and foreign files, locks.

Whatever happens, the next run finishes with the same bytes as an undisturbed one, or names the file that is wrong.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from harness import (
    ROOT,
    SCRIPT,
    TINY,
    Run,
    alive,
    all_rules,
    differences,
    end,
    environment,
    fingerprint,
    orphans,
    scripts,
    wait_for_scripts_to_end,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
SEED = 8
# Of a finished run Snakemake makes no missing file that nothing needs: a stage is asked for by name.
HARVEST = ("--forcerun", "harvest", "--until", "harvest")


def script_of(rule):
    """Name of a rule's script, as it is seen among the processes."""
    block = re.search(rf"^\s*rule {rule}:.*?scripts/(\w+)\.py", all_rules(), flags=re.M | re.S)
    return block[1]


def kill_during(process, rule, kind, wait):
    """kill -9 once a job of `rule` has run for `wait` seconds; False if there was none, or it ended before."""
    while process.poll() is None:
        found = [child for child, script in scripts(process).items() if script == script_of(rule)]
        if found:
            break
        time.sleep(0.05)
    else:
        return False
    time.sleep(wait)
    hit = alive(found[0])
    if kind == "job" and hit:
        found[0].kill()
    elif kind == "snakemake" and hit:
        os.kill(process.pid, signal.SIGKILL)
    else:
        end(process)
    return hit


def stages(rules):
    """The run's rules in the order in which they ran, stage by stage."""
    found = {}
    for rule in rules:
        (file,) = [p for p in (ROOT / "workflow" / "rules").glob("*.smk") if re.search(rf"rule {rule}:", p.read_text())]
        found.setdefault(file.stem, []).append(rule)
    return found


def test_kill_9_at_random_moments_of_every_stage_changes_nothing(undisturbed, tmp_path):
    """In each stage, at random moments: a job, and Snakemake alone (its jobs live on) or all; then it is resumed."""
    chance = random.Random(SEED)
    run = Run(tmp_path)
    found = stages(undisturbed.rules())
    assert set(found) >= {"sequences", "numbering", "splits", "activations", "saes", "concepts", "steering", "report"}
    kills = {"job": 0, "snakemake": 0, "all": 0}
    owed = []  # rules that were being made again, which their user would ask for again: Snakemake makes no lost file
    # that nothing needs any more
    for turn, rules in enumerate(found.values()):
        plan = [(chance.choice(rules), kind) for kind in ("job", ("snakemake", "all")[turn % 2])]
        for rule, kind in sorted(plan, key=lambda item: rules.index(item[0])):
            forced = []  # a job that ended before the blow is made again, and struck earlier
            for share in (chance.uniform(0.05, 0.9), 0.2, 0.0):
                process = run.start("--cores", "2", "--rerun-incomplete", *forced)
                try:
                    hit = kill_during(process, rule, kind, 0.05 + share * min(undisturbed.seconds(rule), 6))
                    said = process.communicate(timeout=900)[0]
                except BaseException:
                    end(process)
                    raise
                if hit and kind == "job":
                    assert f"Error in rule {rule}" in said, said[-5000:]
                elif process.returncode:  # Snakemake was killed, so that its lock is there
                    assert process.returncode == -signal.SIGKILL, said[-5000:]
                    assert wait_for_scripts_to_end(run.folder), "no job goes on without Snakemake"
                    if hit and not kills[kind]:
                        said = run.local(check=False)
                        assert "cannot be locked" in said, said[-3000:]
                        assert "--unlock" in said, said[-3000:]
                    run.local("--unlock")
                if hit:
                    print(f"killed: {kind} in {rule}", flush=True)
                    kills[kind] += 1
                    owed += forced[1:]
                    break
                forced = ["--forcerun", rule]
    run.local("--rerun-incomplete", *(["--forcerun", *owed] if owed else []))
    print(f"{sum(kills.values())} kills: {kills}; the run was resumed after each")
    struck = [kills["job"], kills["snakemake"] + kills["all"]]
    assert min(struck) >= len(found) - 1, "a job may end before the blow, three times, but not often"
    assert kills["snakemake"]
    assert kills["all"]
    assert differences(fingerprint(undisturbed.results), fingerprint(run.results)) == []
    assert not list(run.results.rglob("*.part")), "nothing is left of the files that killed jobs were writing"
    assert "Nothing to be done" in run.local("--dry-run")


@pytest.fixture
def damaged(undisturbed, tmp_path):
    """A copy of the finished run for a test to damage."""
    run = Run(tmp_path / "copy")
    shutil.copytree(undisturbed.folder, run.folder, symlinks=True)  # copy2 keeps the times that Snakemake compares
    return run


def flip(path):
    """Change one byte in the middle of a file's data, leaving its size and time."""
    times = os.stat(path)
    middle = times.st_size // 2
    if path.suffix == ".parquet":  # of its largest column: what a reader skips, such as statistics, may be damaged
        group = pq.ParquetFile(path).metadata.row_group(0)
        chunk = max(map(group.column, range(group.num_columns)), key=lambda column: column.total_compressed_size)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        middle = start + chunk.total_compressed_size // 2
    with open(path, "rb+") as handle:
        handle.seek(middle)
        byte = handle.read(1)
        handle.seek(-1, os.SEEK_CUR)
        handle.write(bytes([byte[0] ^ 0x10]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    ("file", "reader"),
    [
        ("activations/layer2/shard-0.safetensors", "train_sae"),
        ("saes/layer2/topk-seed0/sae.safetensors", "associate"),
        ("splits/antibodies.parquet", "train_sae"),
        ("numbering/residues.parquet", "label_concepts"),
    ],
)
def test_a_flipped_byte_is_found_named_and_rebuilt(undisturbed, damaged, file, reader):
    path = damaged.results / file
    flip(path)
    said = damaged.local("--forcerun", reader, "--until", reader, check=False)
    assert "Error in rule" in said, said[-3000:]
    assert re.search(rf"Error: .*{re.escape(file)}\b.*", said), said[-3000:]
    assert "run again to rebuild" in said
    path.unlink()  # what the message asks for
    damaged.local("--forcerun", reader, "--until", reader)
    before, after = fingerprint(undisturbed.results), fingerprint(damaged.results)
    assert before[file] == after[file]


def test_activations_of_another_model_or_layer_are_refused(damaged):
    """A manifest put in place by hand, newer than its inputs, so that only its contents can tell."""
    path = damaged.results / "activations" / "layer2" / "manifest.json"
    original = json.loads(path.read_text())
    for key, foreign in (("weights_sha256", "0" * 64), ("layer", 3), ("model", "iglm")):
        path.write_text(json.dumps({**original, key: foreign}))
        said = damaged.local("--forcerun", "train_sae", "--until", "evaluate_sae", check=False)
        assert re.search(rf"Error: .*manifest.json: {key} is .*this run expects", said), said[-3000:]


def test_an_sae_of_other_activations_is_refused(damaged):
    path = damaged.results / "saes" / "layer2" / "topk-seed0" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer": 3}))
    said = damaged.local("--until", "associate", "--forcerun", "associate", check=False)
    assert re.search(r"Error: .*topk-seed0/config.json.*layer", said), said[-3000:]


def test_a_full_disk_is_said_and_leaves_nothing_truncated(undisturbed, damaged):
    """No file may grow beyond 64 KiB (RLIMIT_FSIZE), as on a disk that fills."""
    shard = damaged.results / "activations" / "layer2" / "shard-0.safetensors"
    shard.unlink()
    limit = f"import resource, sys, os; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, {resource.RLIM_INFINITY})); "
    limit += "os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", limit, *damaged.command("--cores", "2", *HARVEST)],
        cwd=damaged.folder, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert re.search(r"Error: .*shard-0.safetensors: could not be written \(File too large\)", said), said[-3000:]
    assert not shard.exists()
    assert not list(shard.parent.glob(".*.part"))
    damaged.local(*HARVEST)
    assert (
        fingerprint(damaged.results)["activations/layer2/shard-0.safetensors"]
        == (fingerprint(undisturbed.results)["activations/layer2/shard-0.safetensors"])
    )


def test_a_small_file_system_that_fills_is_said(undisturbed, tmp_path):
    """A tmpfs of 3 MiB under the run: room for sequences and numbering, not for activations."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        run = Run(disk)
        shutil.copytree(undisturbed.results / "sequences", run.results / "sequences")
        shutil.copytree(undisturbed.results / "numbering", run.results / "numbering")
        shard = "results/tiny/activations/layer2/shard-0.safetensors"
        said = run.local(shard, "--rerun-triggers", "mtime", check=False)
        assert re.search(r"No space left on device|needed, .* free", said), said[-3000:]
        assert not list(run.results.glob("activations/*/shard-*"))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_sigterm_leaves_a_checkpoint_and_a_clean_end(undisturbed, damaged):
    """As Slurm sends it at a time limit: the job writes its checkpoint and ends; the next run continues from there."""
    folder = damaged.results / "saes" / "layer2" / "ordered-seed0"
    shutil.rmtree(folder)
    checkpoint = damaged.results / "checkpoints" / "saes" / "layer2" / "ordered-seed0.safetensors"
    log = damaged.results / "logs" / "train_sae-layer2-ordered-seed0.log"
    wanted = "results/tiny/saes/layer2/ordered-seed0/metrics.json"
    process = damaged.start("--cores", "2", wanted)
    try:
        while process.poll() is None:
            training = [child for child, script in scripts(process).items() if script == "train_sae"]
            if training and checkpoint.exists():
                training[0].terminate()
                break
            time.sleep(0.05)
        said = process.communicate(timeout=300)[0]
    finally:
        end(process)
    assert process.returncode != 0, said[-3000:]
    assert checkpoint.exists()
    assert not folder.exists() or not any(folder.iterdir())
    damaged.local(wanted)
    assert re.search(r"continuing from step \d+", log.read_text())
    assert not checkpoint.exists()
    before, after = fingerprint(undisturbed.results), fingerprint(damaged.results)
    assert [name for name in differences(before, after) if name.startswith("saes/")] == []


def test_a_second_snakemake_in_the_folder_is_told_of_the_lock(tmp_path):
    run = Run(tmp_path)
    first = run.start("--cores", "1", "--until", "generate")
    try:
        while first.poll() is None and not scripts(first):
            time.sleep(0.05)
        said = run.local("--until", "generate", check=False)
        assert "cannot be locked" in said, said[-3000:]
        assert "make sure that no other Snakemake process" in said
    finally:
        end(first)


def test_no_orphan_is_left_by_this_suite(tmp_path_factory):
    assert not orphans(tmp_path_factory.getbasetemp())


def test_the_names_in_processes_are_understood():
    assert SCRIPT.search(f"{sys.executable} /x/.snakemake/scripts/tmpab_1.train_sae.py")[1] == "train_sae"
    assert Path(TINY).is_relative_to(ROOT)
