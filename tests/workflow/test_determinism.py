"""The same configuration gives the same bytes: jobs are single-threaded and seeded by what they are, not by when.

So results depend neither on the number of cores nor on the scheduler (test_slurm.py) nor on interruptions
(test_faults.py). Exempt are logs, benchmarks, and the report with its figures of costs, which hold times. A training
with `saes.threads` above 1 adds up its gradients in another order: there, the validation FVU agrees to the bound below,
and what is not trained is the same.
"""

import json

import pytest
import yaml
from harness import TINY, Run, differences, fingerprint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
FVU_BOUND = 0.02  # difference of the validation FVU between 1 and 2 threads a training


def test_one_core_or_two_give_the_same_bytes(undisturbed, tmp_path):
    run = Run(tmp_path)
    run.snakemake("--cores", "1")
    before, after = fingerprint(undisturbed.results), fingerprint(run.results)
    assert {"tables/mapping_vs_steering.csv", "tables/best_latents.csv", "sequences/antibodies.parquet"} <= set(after)
    assert differences(before, after) == []


def test_two_threads_a_training_stay_within_the_bound(undisturbed, tmp_path):
    settings = yaml.safe_load(TINY.read_text())
    settings["saes"]["threads"] = 2
    config = tmp_path / "threads.yaml"
    config.write_text(yaml.safe_dump(settings))
    run = Run(tmp_path, config=config)
    run.local("--until", "evaluate_sae")
    before, after = fingerprint(undisturbed.results), fingerprint(run.results)
    assert not [name for name in differences(before, after) if name in after and not name.startswith("saes/")]
    for name in ("topk", "ordered"):
        folder = f"saes/layer2/{name}-seed0"
        fvu = [json.loads((r.results / folder / "metrics.json").read_text())["fvu"] for r in (undisturbed, run)]
        assert fvu[0] == pytest.approx(fvu[1], abs=FVU_BOUND)
