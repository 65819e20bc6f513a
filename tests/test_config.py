"""Mistakes in a configuration are found before any job, and named with a remedy."""

import json
import subprocess
import sys

import pytest
import yaml
from antibody_sae import config
from antibody_sae.io import InputError


@pytest.fixture
def default(root):
    return yaml.safe_load((root / "config.yaml").read_text())


def test_an_empty_file_is_the_default_run(default):
    empty, shipped = config.complete({}), config.complete(default)
    assert config.saes(empty) == config.saes(shipped)
    for section in empty.keys() - {"saes"}:
        assert empty[section] == shipped[section], section


def test_the_shipped_configurations_are_valid(root, default):
    for path in (root / "tests" / "config").glob("*.yaml"):
        full = config.complete(yaml.safe_load(path.read_text()))
        assert full["run"] == ("default" if path.stem == "library" else path.stem)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"steering": {"levers": ["latent", "trained"], "lever_trained": [8]}},
            "steering.lever_trained: trains sparse levers; add sparse to steering.levers",
        ),
        ({"sterring": {}}, "unknown key 'sterring'; did you mean 'steering'"),
        ({"activations": {"layer": [2]}}, "unknown key 'activations.layer'; did you mean 'layers'"),
        ({"steering": {"strengths": [1.0]}}, "unknown key 'steering.strengths'; gone since 0.2.0, delete it"),
        (
            {"steering": {"targets": ["binder=yes"]}, "concepts": {"metadata": {"binder": {}}}},
            "'binder=yes' is a column of the input",
        ),
        ({"activations": {"layers": [9]}}, "layers 1 to 4"),
        (
            {"saes": {"train": {"topk": {"layers": [2, 3]}}}},
            "saes.train.topk.layers: layer 3 is not harvested; add it to activations.layers (now 2)",
        ),
        ({"saes": {"shared": {"layers": [1]}}}, "saes.shared.layers: layer 1 is not harvested"),
        (
            {"activations": {"layers": [2, 3]}, "saes": {"shared": {"layers": [2]}}},
            "no SAE is trained at layer 3; leave it out",
        ),
        ({"saes": {"shared": {"k": 64, "latents": 32}}}, "k 64 > latents 32"),
        ({"saes": {"train": {"topk": {"architecture": "topk", "k": 9999}}}}, "k 9999 > latents"),
        ({"model": {"name": "iglm-xl"}}, "none of iglm"),
        ({"model": {"name": "mine", "path": "/nowhere", "template": {"H": "{heavy}."}}}, "/nowhere has no config.json"),
        ({"sequences": {"n": 0}}, "sequences.n"),
        ({"sequences": {"chains": "HL"}}, "model iglm writes H or L"),
        ({"sequences": {"species": "cat"}}, "sequences.species: 'cat' is no name of a species here; known are human"),
        ({"sequences": {"species": "Mus musculus"}}, "write mouse"),
        ({"sequences": {"species": "pig"}}, "cannot read or write pig antibodies, only those of camel, human"),
        ({"numbering": {"species": ["human", "cow"]}}, "numbering.species: model iglm cannot read or write cow"),
        ({"sequences": {"species": "camel"}}, "add alpaca"),
        (
            {"sequences": {"source": "file", "chains": "HL"}, "numbering": {"species": ["alpaca"]}},
            "no germlines of light chains of alpaca",
        ),
        ({"splits": {"validation": 0.6, "test": 0.5}}, "nothing to train on"),
        (
            {"steering": {"where": "CDR9"}},
            "steering.where: not 'CDR9'. Positions that an intervention acts on: all, a region",
        ),
        ({"run": "../elsewhere"}, "run"),
        ({"saes": {"train": {"a/b": {}}}}, "saes.train"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(InputError, match=r"config:|model") as raised:
        config.complete(change)
    assert message in str(raised.value)


def test_an_sae_overrides_what_all_share():
    full = config.complete({"saes": {"shared": {"k": 16}, "train": {"a": {"architecture": "topk"}, "b": {"k": 8}}}})
    assert [config.saes(full)[name]["k"] for name in "ab"] == [16, 8]


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of SAELens, as far as no tensor is read."""
    place = {"model_name": "iglm", "hook_name": "transformer.h.1"}
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "topk", "metadata": place}))
    (tmp_path / "sae_weights.safetensors").write_bytes(b"")
    return str(tmp_path)


def test_a_loaded_sae_has_one_seed_and_is_steered(saved):
    full = config.complete({"saes": {"seeds": [3, 4], "train": {"a": {}, "mine": {"load": saved}}}})
    assert config.seeds(full) == {"a": [3, 4], "mine": [3]}
    assert config.steered_saes(full, 2) == config.seeds(full)
    assert config.saes(full)["mine"] == {"load": saved, "architecture": "loaded", "random_model": False}
    assert "load" not in config.saes(full)["a"]


def test_a_checkpoint_that_does_not_fit_is_said_before_any_job(saved):
    def mistake(mine, **sections):
        with pytest.raises(InputError) as raised:
            config.complete({"saes": {"train": {"mine": mine}}, **sections})
        return str(raised.value)

    assert "saes.train.mine: k, seeds beside load" in mistake({"load": saved, "k": 8, "seeds": [1]})
    assert "saes.train.mine.load: /nowhere: no such folder; give the folder" in mistake({"load": "/nowhere"})
    assert "this run's is after block 3" in mistake({"load": saved}, activations={"layers": [2, 3]})
    assert "model 'iglm', this run's is iglm-s" in mistake({"load": saved}, model={"name": "iglm-s"})
    with pytest.raises(InputError, match=r"saes\.shared\.load: a checkpoint is one SAE"):
        config.complete({"saes": {"shared": {"load": saved}}})


def test_an_sae_is_trained_at_its_own_layers_and_steered_with_those_that_are_there():
    train = {"a": {"layers": [3, 2]}, "b": {}, "c": {"layers": [4], "tokens": 0}}
    sections = {"saes": {"seeds": [0, 1], "train": train}, "steering": {"explore_n": 12}}
    full = config.complete({**sections, "activations": {"layers": [2, 3, 4]}})
    assert config.layers(full) == {"a": [2, 3], "b": [2, 3, 4], "c": [4]}
    assert [list(config.steered_saes(full, layer)) for layer in (2, 3, 4)] == [["a", "b"], ["a", "b"], ["b"]]
    assert [config.explored(full, layer) for layer in (2, 3, 4)] == [3, 3, 6], "shared by the SAEs of the layer"


def test_the_order_of_keys_changes_nothing(default):
    def backwards(value):
        return {k: backwards(value[k]) for k in reversed(value)} if isinstance(value, dict) else value

    turned = backwards(default)
    turned["saes"]["train"] = default["saes"]["train"]
    assert repr(config.complete(turned)) == repr(config.complete(default))


def test_the_schema_states_the_defaults_of_training():
    from dataclasses import asdict

    from antibody_sae.sae.settings import Settings

    assert config.saes(config.complete({"saes": {"train": {"a": {}}}}))["a"] == asdict(Settings())


def test_the_schema_offers_what_there_is():
    """Adding an architecture, a criterion, a judge ... is one entry in the library and its name in the schema."""
    from antibody_sae.antibody import REGIONS
    from antibody_sae.designs import judges, liabilities
    from antibody_sae.numbering import anarci
    from antibody_sae.sae.prefixes import ARCHITECTURES, LAWS
    from antibody_sae.sae.settings import ACTIVATIONS
    from antibody_sae.steering.criteria import CRITERIA

    schema = config._schema()
    sections, parts = schema["properties"], schema["$defs"]
    sae, design, numbering = (node["properties"] for node in (parts["sae"], parts["design"], sections["numbering"]))
    limits = design["constraints"]["properties"]["liabilities"]
    for names, offered in (
        (sae["architecture"]["enum"], ARCHITECTURES),
        (sae["activation"]["enum"], ACTIVATIONS),
        (sae["law"]["enum"], LAWS),
        (parts["criterion"]["enum"], CRITERIA),
        (parts["region"]["enum"], REGIONS),
        (numbering["scheme"]["enum"], anarci.SCHEMES),
        (numbering["species"]["items"]["enum"], anarci.SPECIES),
        (design["judges"]["items"]["enum"], judges.JUDGES),
        (limits["propertyNames"]["enum"], liabilities.NAMES),
    ):
        assert list(names) == list(offered)


def test_null_drops_an_sae_of_the_default_file():
    """Snakemake merges the user's mapping over config.yaml's key by key, so leaving one out does not drop it."""
    full = config.complete({"saes": {"train": {"topk": None, "ordered": {"architecture": "ordered"}}}})
    assert list(full["saes"]["train"]) == ["ordered"]
    with pytest.raises(InputError, match="every SAE is null"):
        config.complete({"saes": {"train": {"topk": None}}})


def test_a_target_of_the_other_chain_is_said_before_any_job():
    for chains, target in (("L", "j-gene=IGHJ4"), ("L", "cdr3-length=H:>=22"), ("H", "light-locus=K")):
        with pytest.raises(InputError, match="is of the other chain"):
            config.complete({"sequences": {"chains": chains}, "steering": {"targets": [target]}})
    config.complete({"sequences": {"chains": "L"}, "steering": {"targets": "auto"}})


def test_parsing_needs_nothing_heavy():
    """Snakemake imports the configuration for every job it starts."""
    heavy = "[m for m in ('torch', 'pandas', 'numba') if m in sys.modules]"
    code = f"import sys; from antibody_sae import config; print({heavy})"
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_scripts_are_small(root):
    for path in (root / "workflow" / "scripts").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 45, f"{path.name}: the science belongs in the library"
