"""Which chains are a pair: by evidence within sample and cell, whatever the names, files and order."""

import pytest
from antibody_sae.io import InputError
from antibody_sae.sequences import chunks
from antibody_sae.sequences.columns import side_of
from antibody_sae.sequences.records import ReadSettings

HEAVY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDY"
    "WGQGTLVTVSS"
)
LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
HEAVIES = [HEAVY, HEAVY.replace("DTYIH", "STWIH"), HEAVY.replace("DTYIH", "SYAMS")]
LIGHTS = [LIGHT, LIGHT.replace("TAVA", "SYLA"), LIGHT.replace("TAVA", "NWLA")]
CODONS = "GCC TGC GAC GAG TTC GGC CAC ATC AAG CTG ATG AAC CCC CAG CGG AGC ACC GTG TGG TAC"
CODON = {residue: CODONS[4 * i : 4 * i + 3] for i, residue in enumerate("ACDEFGHIKLMNPQRSTVWY")}
DNA = "".join(CODON[residue] for residue in HEAVY)


def read(path, text: str, **how):
    path.write_text(text)
    return list(chunks.antibodies([str(path)], ReadSettings(**{"chains": "HL"} | how), ["human"], (90, 200)))


def cells(path, rows: list[tuple], columns: str = "cell_id,sequence_aa,umis", **how):
    text = columns + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    return read(path, text, **how)


def decided(records) -> tuple[list[tuple[str, str]], list[str]]:
    """(pairs as they were made, reasons of the others)"""
    return [(r.heavy, r.light) for r in records if not r.reason], sorted(
        r.reason.split(":")[0] for r in records if r.reason
    )


AGAIN = "the same heavy chain twice in a cell"
MORE = "another {} chain of the cell was seen more often"


@pytest.mark.parametrize(
    ("rows", "pairs", "refused"),
    [
        ([(HEAVIES[0], 9), (LIGHTS[0], 9)], 1, []),
        ([(LIGHTS[1], 1), (HEAVIES[0], 60), (LIGHTS[0], 55)], 1, [MORE.format("light")]),
        ([(HEAVIES[0], 60), (HEAVIES[1], 3), (LIGHTS[0], 55)], 1, [MORE.format("heavy")]),
        ([(HEAVIES[0], 60), (HEAVIES[1], 50), (LIGHTS[0], 55)], 0, ["doublet"] * 3),
        ([(HEAVIES[0], 60), (LIGHTS[1], 55), (LIGHTS[0], 55)], 0, ["tie"] * 3),
        ([(HEAVIES[0], ""), (LIGHTS[1], ""), (LIGHTS[0], "")], 0, ["several light chains share a cell or name"] * 3),
        ([(HEAVIES[0], 4), (HEAVIES[0], 5), (HEAVIES[1], 4), (LIGHTS[0], 1)], 1, [MORE.format("heavy"), AGAIN]),
    ],
)  # fmt: skip
def test_of_several_chains_the_one_seen_most_often(tmp_path, rows, pairs, refused, capsys):
    made, others = decided(cells(tmp_path / "a.csv", [("c1", *row) for row in rows]))
    assert made == [(HEAVIES[0], LIGHTS[0])] * pairs
    assert others == sorted(refused)
    assert "a.csv: chains joined by cell or name within the file" in capsys.readouterr().err


def test_equal_barcodes_of_two_samples_are_two_cells(tmp_path):
    rows = [("s1", "c1", HEAVIES[0]), ("s2", "c1", LIGHTS[1]), ("s2", "c1", HEAVIES[1]), ("s1", "c1", LIGHTS[0])]
    made, others = decided(cells(tmp_path / "a.csv", rows, "sample_id,barcode,sequence_aa"))
    assert sorted(made) == sorted(zip(HEAVIES[:2], LIGHTS[:2], strict=True))
    assert not others


@pytest.mark.parametrize("cell", ["", "NA", "nan"])
def test_no_cell_is_not_a_cell(tmp_path, cell):
    made, others = decided(cells(tmp_path / "a.csv", [(cell, HEAVY, 1), (cell, LIGHT, 1)]))
    assert (made, others) == ([], ["no cell"] * 2)


def test_an_airr_table_with_pandas_index_and_names_for_pairs(tmp_path):
    rows = [(0, "m_H", "IGHV3-66", HEAVY), (1, "m_L", "Homsap IGKV1-39*01 F", LIGHT)]
    (pair,) = cells(tmp_path / "a.csv", rows, ",sequence_id,v_call,sequence_alignment_aa")
    assert (pair.id, pair.heavy, pair.light, pair.metadata) == ("m", HEAVY, LIGHT, {})


@pytest.mark.parametrize("names", [("8659_seq1", "8659_seq2"), ("8659_seq2", "8659_seq1")])
def test_numbering_says_which_chain_a_name_does_not(tmp_path, names):
    text = f">{names[0]} x\n{LIGHT}\n>{names[1]}\n{HEAVY}\n"
    (pair,) = read(tmp_path / "a.fasta", text, pair_pattern=r"(?P<id>.+)_seq\d")
    assert (pair.id, pair.heavy, pair.light) == ("8659", HEAVY, LIGHT)
    (heavy,) = read(tmp_path / "b.fasta", f">clone-L\n{HEAVY}\n", chains="H")  # the name does not overrule the sequence
    assert (heavy.id, heavy.heavy, heavy.reason) == ("clone-L", HEAVY, "")
    (light,) = read(tmp_path / "c.fasta", f">clone_H\n{LIGHT}\n", chains="H")
    assert light.reason == "no heavy chain: it is of type K"


def test_joined_by_order_the_files_must_be_as_long(tmp_path):
    for name, n in (("h", 2), ("l", 3)):
        (tmp_path / name).write_text("".join(f">{i}\n{HEAVY if name == 'h' else LIGHT}\n" for i in range(n)))
    paths = [str(tmp_path / name) for name in "hl"]
    with pytest.raises(InputError, match="one ends after 2 records"):
        list(chunks.antibodies(paths, ReadSettings(chains="HL", join="order"), ["human"], (90, 200)))
    with pytest.raises(InputError, match=r"sequences\.join: order takes files two by two"):
        chunks._scopes(paths[:1], ReadSettings(join="order"))


@pytest.mark.parametrize(
    "bases",
    [DNA, "G" + DNA, "CATATGTAA" + DNA + "TAAGG", DNA[::-1].translate(str.maketrans("ACGT", "TGCA")),
     DNA.replace("T", "U")],
)  # fmt: skip
def test_nucleotides_are_translated_in_the_frame_that_numbers(tmp_path, bases):
    (asked,) = read(tmp_path / "a.fasta", f">x\n{bases}\n", chains="H", translate=True)
    assert (asked.heavy, asked.reason) == (HEAVY, "")
    (not_asked,) = read(tmp_path / "a.fasta", f">x\n{bases}\n", chains="H")
    assert "set sequences.translate: true" in not_asked.reason
    (nothing,) = read(tmp_path / "b.fasta", f">x\n{'ACGT' * 90}\n", chains="H", translate=True)
    assert nothing.reason == "nucleotides: no reading frame of the six holds an antibody domain"


def test_an_scfv_in_either_order_is_its_two_domains(tmp_path):
    linker = "GGGGSGGGGSGGGGS"
    text = f">a\n{HEAVY}{linker}{LIGHT}\n>b\n{LIGHT}{linker}{HEAVY}\n>c\n{HEAVY}:{LIGHT}\n>d\n{HEAVY}|{HEAVIES[1]}\n"
    *pairs, two_heavy = read(tmp_path / "a.fasta", text)
    assert [(r.heavy, r.light, r.reason) for r in pairs] == [(HEAVY, LIGHT, "")] * 3
    assert two_heavy.reason == "chain: two chains in one entry, of types H and H"


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("IGHV1-2*02", "heavy"), ("Homsap IGKV1-39*01 F", "light"), ("Lamgla IGHV3S1*01 F", "heavy"),
        ("Musmus IGLV1*01 F, or Musmus IGLV2*01 F", "light"), ("IGH", "heavy"), ("Heavy", "heavy"), ("kappa", "light"),
        ("L", "light"), ("light chain", "light"), ("TRBV7-9*01", "other"), ("TRA", "other"), ("", None),
        ("Homsap", None), ("IGHV1-2 or IGKV1-39", None),
    ],
)  # fmt: skip
def test_chain_types_in_words_and_genes(text, side):
    assert side_of(text) == side
