"""What reruns when something changes, by dry-runs on a finished quick run: exactly the stages that it touches."""

import re
import shutil
import subprocess
import sys

import pytest
from antibody_sae import config


@pytest.fixture
def project(quick_run):
    return quick_run[0]


def test_a_second_run_does_nothing(project):
    assert project.planned() == {}


def test_a_comment_reruns_nothing(project):
    path = project.folder / "config.yaml"
    path.write_text("# a comment\n" + path.read_text())
    assert project.planned() == {}


def rules_of(stage):
    """Rules that a stage's file defines."""
    text = (config.LIBRARY.parents[1] / "rules" / f"{stage}.smk").read_text()
    return set(re.findall(r"^(?:rule|checkpoint) (\w+):", text, flags=re.M))


def test_steering_reruns_steering_and_what_reads_it(project):
    planned = project.planned(lambda c: c.setdefault("steering", {}).update(seed=99))
    assert planned
    assert set(planned) <= rules_of("steering") | rules_of("report")
    assert "report" in planned


def test_concepts_rerun_concepts_and_what_depends_on_them(project):
    planned = project.planned(lambda c: c.setdefault("concepts", {}).update(floor=0.25))
    assert "associate" in planned
    assert set(planned) <= rules_of("concepts") | rules_of("steering") | rules_of("report")


def test_an_sae_reruns_its_own_branch(project):
    def change(c):
        c["saes"].setdefault("train", {}).update(topk={"architecture": "topk", "learning_rate": 0.002})

    planned = project.planned(change)
    assert planned["train_sae"] == 1
    assert planned["associate"] == 1
    assert not set(planned) & (
        rules_of("sequences") | rules_of("numbering") | rules_of("splits") | rules_of("activations")
    )


def test_splits_leave_activations_alone(project):
    planned = project.planned(lambda c: c.setdefault("splits", {}).update(seed=5))
    assert planned["train_sae"] == 2
    assert not set(planned) & (rules_of("sequences") | rules_of("numbering") | rules_of("activations"))


def test_an_edit_in_a_module_reruns_what_stands_on_it(project):
    """The table of tests/test_source.py, seen once with Snakemake's own eyes."""
    path = project.folder / "workflow" / "lib" / "antibody_sae" / "splits.py"
    kept = path.with_suffix(".kept")
    shutil.copy2(path, kept)
    try:
        path.write_text(path.read_text() + "\n# a comment changes nothing\n")
        assert project.planned() == {}
        path.write_text(path.read_text() + "\nEDITED = True\n")
        planned = project.planned()
    finally:
        kept.replace(path)
    assert {"split", "train_sae", "report"} <= set(planned)
    assert not set(planned) & (rules_of("sequences") | rules_of("numbering") | rules_of("activations"))


def test_another_workflow_imports_this_one_as_a_module(project, tmp_path):
    snakefile = (
        f'configfile: "quick.yaml"\n\nmodule sae:\n    snakefile: "{project.folder}/Snakefile"\n    config: config\n\n'
    )
    (tmp_path / "Snakefile").write_text(snakefile + "use rule * from sae as sae_*\n")
    shutil.copy(project.folder / "tests" / "config" / "quick.yaml", tmp_path)
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--directory", str(tmp_path)]
    done = subprocess.run(
        [*command, "--snakefile", str(tmp_path / "Snakefile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sae_train_sae" in done.stdout + done.stderr


def test_one_sae_alone(project):
    planned = project.planned(lambda c: c["saes"].update(train={"topk": None}))
    assert "train_sae" not in planned
    assert planned["report"] == 1


def test_the_control_on_random_weights_is_harvested_trained_and_compared_but_not_steered(project):
    """A harvest for each of its seeds, on which it and nothing else stands."""

    def change(c):
        control = {"architecture": "topk", "random_model": True, "seeds": [0, 1]}
        c["saes"].setdefault("train", {}).update(topk_random_model=control)

    planned = project.planned(change)
    assert planned["harvest_random"] == 4, "two shards a seed"
    assert planned["manifest_random"] == planned["concept_baselines_random"] == 2
    assert planned["train_sae"] == planned["associate"] == planned["evaluate_sae"] == 2
    assert not {"harvest", "steer_plan", "steer_sparse", "steer_generate", "compare_seeds"} & set(planned)


def test_a_loaded_sae_takes_the_place_of_a_trained_one(project):
    """It is loaded once, has no history to wait for, and is associated, steered and reported like the others."""
    folder = project.folder / "results" / "quick" / "saes" / "layer2" / "topk-seed0"

    def change(c):
        c["saes"].update(seeds=[0, 1], train={"mine": {"load": str(folder)}, "topk": None, "ordered": None})

    planned = project.planned(change)
    assert planned["load_sae"] == planned["evaluate_sae"] == planned["associate"] == planned["steer_plan"] == 1
    assert "report" in planned
    assert not {"train_sae", "compare_seeds", "harvest"} & set(planned)


def test_an_sae_is_trained_measured_and_steered_at_its_own_layers_alone(project):
    def change(c):
        c["activations"] = {**c.get("activations", {}), "layers": [1, 2]}
        c["saes"].setdefault("train", {}).update(ordered={"architecture": "ordered", "layers": [2]})

    planned = project.planned(change)
    for rule in ("train_sae", "evaluate_sae", "associate", "measure_quality", "steer_plan"):
        assert planned[rule] == 3, "TopK at both layers, Ordered at one"
    assert planned["concept_baselines"] == planned["steer_controls"] == 2
    assert planned["steer_effects"] == 1, "of all layers"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(sterring={}), "did you mean 'steering'"),
        (
            lambda c: c["saes"].update(train={"mine": {"load": "nowhere"}}),
            "saes.train.mine.load: nowhere: no such folder",
        ),
        (lambda c: c["activations"].update(layers=[9]), "layers 1 to 3"),
        (lambda c: c["saes"]["shared"].update(k=9999), "k 9999 > latents"),
        (lambda c: c["model"].update(name="nothing-like-it"), "none of iglm"),
    ],
)
def test_bad_input_ends_before_any_job(project, change, message):
    import yaml

    settings = yaml.safe_load((project.folder / "tests" / "config" / "quick.yaml").read_text())
    settings.setdefault("activations", {})
    change(settings)
    (project.folder / "bad.yaml").write_text(yaml.safe_dump(settings))
    done = project.snakemake(config="bad.yaml")
    assert done.returncode != 0
    assert message in done.stdout
    assert "rule " not in done.stdout
    assert "Traceback" not in done.stdout
