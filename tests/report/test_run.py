"""Reading a run's tables."""

import pytest
import synthetic_run
from antibody_sae.concepts import catalogue
from antibody_sae.io import InputError
from antibody_sae.report import summary
from antibody_sae.report.charts.base import Palette
from antibody_sae.report.findings import first_of
from antibody_sae.report.run import Run
from antibody_sae.report.tabs import dictionaries, overview, training


@pytest.mark.parametrize(
    ("concept", "label"),
    [
        ("j-gene=IGHJ4", "IGHJ4"),
        ("region=H-CDR3", "H-CDR3"),
        ("residue=Y", "residue Y"),
        ("position=H111A:G", "G at H111A"),
        ("cdr3-length=H:>=22", "CDR-H3 length ≥ 22"),
        ("cdr3-charge=L:<-1", "CDR-L3 charge < -1"),
        ("cdr3-hydropathy=H:-0.75..0", "CDR-H3 hydropathy -0.75 to 0"),
        ("v-identity=H:0.85..0.9", "V identity 0.85 to 0.9"),
        ("isotype=IGHG", "isotype IGHG"),
    ],
)
def test_concepts_in_words(concept, label):
    assert catalogue.concept_label(concept) == label


def test_a_loaded_sae_is_named_by_where_it_comes_from(tmp_path):
    """It has no history, and the page says so; its shape is the checkpoint's; the claims' TopK is the trained one."""
    (tmp_path / "cfg.json").write_text("{}")
    (tmp_path / "sae_weights.safetensors").write_bytes(b"")
    train = {"mine": {"load": str(tmp_path)}, "topk": {"architecture": "topk"}}
    shared = {"latents": 64, "k": 4}
    run = synthetic_run.make(tmp_path / "run", synthetic_run.configuration(saes={"shared": shared, "train": train}))
    mine, topk = run.saes
    assert [run.title(sae) for sae in run.saes] == ["mine, loaded (SAELens jumprelu)", "TopK"]
    assert [run.shape(sae) for sae in run.saes] == [{"latents": 48, "k": 9}, {"latents": 64, "k": 4}]
    found = summary.summary(run)
    assert [row["architecture"] for row in found["saes"]] == ["loaded", "topk"]
    assert "mine and TopK sparse autoencoders with 48 and 64 latents, 4 and 9 active" in overview.described(run, found)
    (section,) = training.sections(run, Palette([sae.title for sae in run.saes]))
    assert (
        section.text
        == f"mine was {run.source(mine)}: what is loaded has no history here; its metrics stand under Dictionaries."
    )
    history = next(figure for figure in section.figures if figure.name == "fvu-layer2")
    assert set(history.data["sae"]) == {"TopK"}
    parts = dictionaries.sections(run, Palette([sae.title for sae in run.saes])) or []
    compared = [table.data for part in parts for table in part.tables if "title" in table.data]
    assert set(compared[0]["title"]) == {run.title(mine), run.title(topk)}
    assert first_of(run, "topk") == "TopK"


def test_a_broken_table_is_named(run, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "complexity.csv").write_bytes(b"a,b\n1,2,3,4\n\xff")
    with pytest.raises(InputError, match=r"complexity\.csv: not readable as CSV"):
        Run(tmp_path, run.config).csv("complexity")
