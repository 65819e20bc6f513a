"""The estimate before a run: right counts from files, and no start on a disk that cannot hold the run."""

import gzip
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae import config, preflight
from antibody_sae.io import InputError, write_json, write_safetensors

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


def test_columns_are_checked_before_anything_is_measured(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "measure", lambda c: pytest.fail("measured first"))
    (tmp_path / "a.csv").write_text("id,VH,Binds to\n")
    sequences = {**quick["sequences"], "source": "file", "paths": [str(tmp_path / "a.csv")]}
    for changed, concepts, message in (
        ({}, {"Bind to": None}, r"concepts\.metadata\.Bind to: .* did you mean 'Binds to'\? it has Binds to, id"),
        ({"metadata": ["donor"]}, {}, r"a\.csv line 1, sequences\.metadata: there is no column 'donor'"),
        ({"columns": {"heavy": "VL"}}, {}, r"sequences\.columns\.heavy: there is no column 'VL'"),
        ({"chains": "HL"}, {}, r"sequences\.columns\.light: there is no column for the light chain"),
    ):
        asked = {**quick, "sequences": sequences | changed, "concepts": {**quick["concepts"], "metadata": concepts}}
        with pytest.raises(InputError, match=message):
            preflight.check(asked, 2, tmp_path)
    with pytest.raises(InputError, match=r"concepts\.metadata\.isotype"):  # generated antibodies have no such thing
        preflight.check({**quick, "concepts": {**quick["concepts"], "metadata": {"isotype": None}}}, 2, tmp_path)


def test_time_follows_cores_and_chunks(quick):
    def minutes(cores):
        return preflight.estimate(quick, RATES, cores, 192)[0].splitlines()[3]

    assert minutes(1) == "time to generate            20 s  on 1 cores"
    assert minutes(64) == "time to generate            10 s  on 64 cores", "two chunks use two cores"


def test_subsampling_saves_disk(quick):
    everything = preflight.estimate(quick, RATES, 2, 192)[1]
    activations = {**quick["activations"], "max_tokens": 1000}
    assert preflight.estimate({**quick, "activations": activations}, RATES, 2, 192)[1] < everything / 5


def test_seeds_and_controls_count(quick):
    """An SAE's own seeds; the control on random weights is harvested and stored once a seed, and not steered."""
    saes = {**quick["saes"], "seeds": [0, 1, 2, 3, 4]}
    topk, other = {"architecture": "topk"}, {"architecture": "ordered", "seeds": [0, 1]}
    control = {"architecture": "topk", "random_model": True, "seeds": [0, 1, 2]}
    few, more, seven, controlled = (
        {**quick, "saes": {**saes, "train": train}}
        for train in (
            {"topk": topk},
            {"topk": topk, "other": other},
            {"topk": {**topk, "seeds": list(range(7))}},
            {"topk": topk, "control": control},
        )
    )
    assert preflight.steered(few) < preflight.steered(more) == preflight.steered(seven)
    assert preflight.steered(controlled) == preflight.steered(few)
    assert preflight.estimate(controlled, RATES, 2, 192)[1] > 3 * preflight.estimate(few, RATES, 2, 192)[1]


def test_a_checkpoint_is_held_against_the_model_before_anything_is_measured(quick, tmp_path, monkeypatch):
    """What the configuration alone cannot see: the weights' hash, the width, and whether its tensors are sound."""
    monkeypatch.setattr(preflight, "measure", lambda c: RATES)

    def saved(width, **place):
        tensors = {"W_enc": (width, 8), "b_enc": (8,), "W_dec": (8, width), "b_dec": (width,)}
        write_safetensors(
            {name: torch.ones(shape) for name, shape in tensors.items()}, tmp_path / "sae_weights.safetensors"
        )
        write_json({"architecture": "topk", "k": 2, "metadata": place}, tmp_path / "cfg.json")
        return {**quick, "saes": {**quick["saes"], "train": {"mine": {"load": str(tmp_path)}}}}

    assert "time to train" in preflight.check(saved(192, model_name="iglm-s"), 2, tmp_path / "run")
    for width, place, message in (
        (64, {}, r"saes\.train\.mine\.load: .*: it reads activations of width 64, this run's model has 192"),
        (192, {"weights_sha256": "another"}, "weights_sha256 is 'another', this run's model has"),
        (192, {"hook_name": "transformer.h.0"}, r"after block 1 \(transformer\.h\.0\), this run's is after block 2"),
    ):
        with pytest.raises(InputError, match=message):
            preflight.check(saved(width, **place), 2, tmp_path / "run")


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
