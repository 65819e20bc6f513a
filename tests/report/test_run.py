"""Reading a run's tables."""

import pytest
from antibody_sae.concepts import catalogue
from antibody_sae.io import InputError
from antibody_sae.report.run import Run


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


def test_a_broken_table_is_named(run, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "complexity.csv").write_bytes(b"a,b\n1,2,3,4\n\xff")
    with pytest.raises(InputError, match=r"complexity\.csv: not readable as CSV"):
        Run(tmp_path, run.config).csv("complexity")
