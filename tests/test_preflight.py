"""The estimate before a run: right counts from files, and no start on a disk that cannot hold the run."""

import gzip
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from antibody_sae import config, preflight
from antibody_sae.io import InputError

RATES = preflight.Rates(generated=20.0, harvested=10_000.0, numbered=200.0, trained=20_000.0)


@pytest.fixture
def quick(root):
    import yaml

    return config.complete(yaml.safe_load((root / "tests" / "config" / "quick.yaml").read_text()))


def test_rates_are_measured_once_a_model_and_shape(quick, tmp_path, monkeypatch):
    table = preflight.check(quick, 2, tmp_path)
    assert "antibodies                   400" in table
    monkeypatch.setattr(preflight, "measure", lambda c: pytest.fail("measured again"))
    assert preflight.check(quick, 2, tmp_path) == table
    with pytest.raises(pytest.fail.Exception):
        preflight.check({**quick, "activations": {**quick["activations"], "layers": [1]}}, 2, tmp_path)


def test_too_little_disk_is_an_error_with_a_remedy(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "measure", lambda c: RATES)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda p: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"free some, set activations\.max_tokens"):
        preflight.check(quick, 2, tmp_path)


def test_time_follows_cores_and_chunks(quick):
    def minutes(cores):
        return preflight.estimate(quick, RATES, cores, 192)[0].splitlines()[3]

    assert minutes(1) == "time to generate            20 s  on 1 cores"
    assert minutes(64) == "time to generate            10 s  on 64 cores", "two chunks use two cores"


def test_subsampling_saves_disk(quick):
    everything = preflight.estimate(quick, RATES, 2, 192)[1]
    activations = {**quick["activations"], "max_tokens": 1000}
    assert preflight.estimate({**quick, "activations": activations}, RATES, 2, 192)[1] < everything / 5


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "fasta", "parquet"])
def test_records_are_counted_from_the_start_of_a_file(tmp_path, kind):
    n = 30_000
    path = tmp_path / f"a.{kind}"
    rng = np.random.default_rng(0)
    chains = ["".join(row) for row in rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), (n, 100))]
    if kind == "parquet":
        pd.DataFrame({"heavy": chains}).to_parquet(path)
    else:
        text = "".join(f">s{i}\n{c}\n" if kind == "fasta" else f"s{i},{c}\n" for i, c in enumerate(chains)).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    assert preflight._records(path) == pytest.approx(n, rel=0.2)
