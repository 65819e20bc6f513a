"""Which library wrote a folder, and whether it belongs to a run, before any tensor is read."""

from __future__ import annotations

import json

import pytest
from antibody_sae.io import InputError
from antibody_sae.sae import checkpoints

NAMES = ["p-iggen", "ollieturnbull/p-IgGen"]


def folder(place, kind, about):
    place.mkdir(parents=True, exist_ok=True)
    (place / kind.about).write_text(json.dumps(about))
    (place / kind.weights).write_bytes(b"")
    return place


@pytest.mark.parametrize("kind", checkpoints.FORMATS, ids=lambda each: each.library)
def test_a_folder_is_known_by_its_files(kind, tmp_path):
    found = checkpoints.recognise(folder(tmp_path, kind, {"a": 1}))
    assert found.format is kind
    assert found.about == {"a": 1}
    assert found.files == [str(tmp_path / kind.about), str(tmp_path / kind.weights)]


def test_a_folder_for_others_is_read_as_this_projects(tmp_path):
    folder(tmp_path, checkpoints.SAELENS, {})
    assert checkpoints.recognise(folder(tmp_path, checkpoints.OWN, {})).format is checkpoints.OWN


def test_other_folders_are_refused_with_what_is_known(tmp_path):
    with pytest.raises(
        InputError, match=r"nowhere: no such folder; .* \(antibody-sae: config\.json, sae\.safetensors; S"
    ):
        checkpoints.recognise(tmp_path / "nowhere")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"no SAE that is known here, it holds model\.safetensors"):
        checkpoints.recognise(tmp_path)
    folder(tmp_path, checkpoints.SAELENS, [])
    with pytest.raises(InputError, match=r"cfg\.json: holds no mapping"):
        checkpoints.recognise(tmp_path)


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.1.hook_resid_post", 2),
        ("blocks.2.hook_resid_pre", 2),
        ("transformer.h.1", 2),
        ("h.11", 12),
        ("gpt_neox.layers.0", 1),
        ("blocks.1.hook_mlp_out", None),
        ("transformer.h.1.mlp", None),
        ("blocks.1.attn.hook_z", None),
    ],
)
def test_hooks_name_layers(hook, layer):
    assert checkpoints.layer_of(hook) == layer


def dictionary_learning(**trainer):
    return {"trainer": {"layer": 1, "lm_name": "ollieturnbull/p-IgGen", **trainer}}


GOOD = {
    "SAELens": (checkpoints.SAELENS, {"metadata": {"model_name": "P-IgGen", "hook_name": "gpt_neox.layers.1"}}),
    "SAELens, older": (checkpoints.SAELENS, {"model_name": "p-iggen", "hook_point": "blocks.1.hook_resid_post"}),
    "dictionary_learning": (checkpoints.DICTIONARY_LEARNING, dictionary_learning(submodule_name="resid_post_layer_1")),
    "own": (checkpoints.OWN, {"model": "other name", "weights_sha256": "w", "layer": 2}),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_checkpoint_of_the_runs_model_and_layer_passes_and_of_another_layer_does_not(case, tmp_path):
    found = checkpoints.recognise(folder(tmp_path, *GOOD[case]))
    here = {"layer": 2, "weights_sha256": "w"}
    checkpoints.check(found, here, NAMES)
    with pytest.raises(
        InputError, match=rf"{found.path.name}: it reads .* after block 2 .*, this run's is after block 3"
    ):
        checkpoints.check(found, {**here, "layer": 3}, NAMES)


@pytest.mark.parametrize(
    ("kind", "about", "message"),
    [
        (checkpoints.SAELENS, {"metadata": {"model_name": "gpt2"}}, "on the model 'gpt2', this run's is p-iggen"),
        (
            checkpoints.SAELENS,
            {"metadata": {"model_name": "p-iggen", "weights_sha256": "v"}},
            "weights_sha256 is 'v', this run's model has 'w'",
        ),
        (
            checkpoints.SAELENS,
            {"metadata": {"model_name": "p-iggen", "hook_name": "blocks.1.hook_mlp_out"}},
            r"cfg\.json: hook_name is 'blocks\.1\.hook_mlp_out', which is not the residual stream",
        ),
        (checkpoints.DICTIONARY_LEARNING, dictionary_learning(lm_name="EleutherAI/pythia"), "the model 'EleutherAI"),
        (checkpoints.DICTIONARY_LEARNING, dictionary_learning(submodule_name="mlp_out"), "submodule_name is 'mlp_out'"),
        (checkpoints.OWN, {"model": "p-iggen", "weights_sha256": "v"}, "weights_sha256 is 'v'"),
    ],
)  # fmt: skip
def test_what_was_trained_elsewhere_is_refused(kind, about, message, tmp_path):
    found = checkpoints.recognise(folder(tmp_path, kind, about))
    with pytest.raises(InputError, match=message):
        checkpoints.check(found, {"layer": 2, "weights_sha256": "w"}, NAMES)


def test_sparsify_names_the_folder_by_the_hook(tmp_path):
    found = checkpoints.recognise(folder(tmp_path / "layers.1", checkpoints.SPARSIFY, {"k": 4}))
    checkpoints.check(found, {"layer": 2}, NAMES)
    with pytest.raises(InputError, match=r"after block 2 \(layers\.1\)"):
        checkpoints.check(found, {"layer": 1}, NAMES)
    unnamed = checkpoints.recognise(folder(tmp_path / "mine", checkpoints.SPARSIFY, {"k": 4}))
    checkpoints.check(unnamed, {"layer": 1}, NAMES)
