"""Harvested shards: right rows, right provenance, damage found."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae import activations, io
from antibody_sae.io import InputError

HEAVY = ["EVQLVESGGGLVQ", "QVQLQQ", "EVQLLESGGGLVQPGGSLRL"]


@pytest.fixture
def antibodies():
    table = pd.DataFrame({"heavy": HEAVY, "light": [None, "DIQMTQ", None], "species": "human"})
    table["antibody_id"] = [io.antibody_id(*pair) for pair in zip(table.heavy, table.light, strict=True)]
    lengths = table.heavy.str.len() + table.light.str.len().fillna(0).astype(int)
    table["first_heavy"] = lengths.cumsum() - lengths
    table["first_light"] = np.where(table.light.notna(), table.first_heavy + table.heavy.str.len(), -1)
    return table


@pytest.fixture
def store(tmp_path, iglm_s, antibodies):
    paths = [tmp_path / f"shard-{i}.safetensors" for i in (0, 1)]
    activations.harvest(iglm_s, antibodies.iloc[:2], [2], paths[:1], "float32")
    activations.harvest(iglm_s, antibodies.iloc[2:], [2], paths[1:], "float32")
    activations.write_manifest(paths, tmp_path / "manifest.json")
    return activations.Store(tmp_path, iglm_s.provenance)


def test_rows_are_the_residues_of_the_file(store, iglm_s, antibodies):
    acts, ids = (np.concatenate(x) for x in zip(*[(a.numpy(), r) for a, r in store.blocks(10)], strict=True))
    assert sorted(ids) == list(range(45))
    by_id = acts[np.argsort(ids)]
    second = antibodies.iloc[1]
    passages = iglm_s.encode(second.heavy, second.light)
    expected = torch.cat([h[2] for _, h in sorted(iglm_s.hidden(passages, [2]), key=lambda x: x[0])])
    np.testing.assert_allclose(by_id[13:25], expected, atol=1e-5)
    np.testing.assert_allclose(store.manifest["mean"], acts.mean(0), atol=1e-5)
    assert store.manifest["scale"] == pytest.approx(np.sqrt(np.square(acts - acts.mean(0)).mean()), rel=1e-5)


def test_two_layers_in_one_pass_equal_two_passes(tmp_path, iglm_s, antibodies):
    activations.harvest(iglm_s, antibodies, [1, 2], [tmp_path / "a", tmp_path / "b"], "bfloat16")
    activations.harvest(iglm_s, antibodies, [1], [tmp_path / "c"], "bfloat16")
    a, c = (io.read_safetensors(tmp_path / name) for name in "ac")
    assert a["activations"].dtype == torch.bfloat16
    assert torch.equal(a["activations"], c["activations"])


def test_a_flipped_byte_is_found_and_named(store):
    path = store.folder / "shard-1.safetensors"
    data = bytearray(path.read_bytes())
    data[-5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"shard-1\.safetensors.*delete it"):
        store.read(1)
    store.read(0)


@pytest.mark.parametrize(("key", "value"), [("model", "iglm"), ("layer", 1), ("tokenizer_sha256", "x"), ("format", 2)])
def test_a_manifest_of_another_run_is_refused(store, iglm_s, key, value):
    path = store.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError, match=key):
        activations.Store(store.folder, {**iglm_s.provenance, "layer": 2})


def test_shards_of_two_layers_do_not_mix(tmp_path, iglm_s, antibodies):
    activations.harvest(iglm_s, antibodies, [1, 2], [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(InputError, match="layer"):
        activations.write_manifest([tmp_path / "a", tmp_path / "b"], tmp_path / "manifest.json")


def test_truncated_and_missing_shards(store):
    path = store.folder / "shard-0.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="shard-0"):
        store.read(0)
    path.unlink()
    with pytest.raises(InputError, match="shard-0"):
        store.read(0)


def test_sampling_is_even_and_the_same_everywhere():
    ids = np.arange(100_000)
    kept = activations.sampled(ids, 0.1)
    assert abs(kept.sum() - 10_000) < 20
    assert all(abs(kept[i : i + 1000].sum() - 100) < 5 for i in range(0, 100_000, 1000))
    assert np.array_equal(activations.sampled(ids[500:600], 0.1), kept[500:600])


def test_values_that_do_not_fit_the_dtype_are_an_error(tmp_path, iglm_s, antibodies, monkeypatch):
    monkeypatch.setattr(
        iglm_s,
        "hidden",
        lambda p, layers: iter([(i, {2: torch.full((len(x.tokens) - 3, 192), 1e6)}) for i, x in enumerate(p)]),
    )
    with pytest.raises(InputError, match="not finite"):
        activations.harvest(iglm_s, antibodies, [2], [tmp_path / "a"], "float16")
    assert not (tmp_path / "a").exists()


def test_only_fully_numbered_antibodies_are_harvested():
    antibodies = pd.DataFrame(
        {"antibody_id": ["a", "b"], "heavy": ["EV", "QV"], "light": [None, "DI"], "species": "human"}
    )
    chains = pd.DataFrame({
        "antibody_id": ["a", "b", "b"], "side": ["heavy", "heavy", "light"], "status": ["ok", "ok", "no domain"],
        "first_residue_id": [0, 2, -1],
    })  # fmt: skip
    kept = activations.numbered(antibodies, chains)
    assert kept[["antibody_id", "first_heavy", "first_light"]].to_numpy().tolist() == [["a", 0, -1]]
