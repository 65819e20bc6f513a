"""Names of columns: the field's usual ones in one table, compared without case, blanks and punctuation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from antibody_sae.io import InputError
from antibody_sae.sequences.records import ReadSettings


def plain(name: str) -> str:
    """A column's name without case, blanks and punctuation: "VH or VHH" is vhorvhh."""
    return re.sub(r"[\W_]+", "", name).lower()


_WORDS = ("sequencealignmentaa", "aasequence", "sequenceaa", "aaseq", "seqaa", "aa", "aminoacidsequence", "aminoacids",
          "aminoacid", "proteinsequence", "protein", "sequence", "seq", "fv", "domain", "region", "")  # fmt: skip
"""What stands before or after the chain's own word, the most telling first: VH_AA rather than VH."""
_HEAVY = ("vh", "heavy", "vhorvhh", "heavychain", "vhh", "hc", "heavyvariable", "variableheavy", "heavychainvariable",
          "variableheavychain", "vhchain", "ighvdj", "nanobody", "h")  # fmt: skip
_LIGHT = ("vl", "light", "vlorvk", "lightchain", "vk", "lc", "lightvariable", "variablelight", "lightchainvariable",
          "variablelightchain", "vlchain", "iglvj", "igkvj", "l")  # fmt: skip


def _with_words(sides: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for word in _WORDS for side in sides for name in (side + word, word + side)))


USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    # two chains a row, or one of known type
    "heavy": _with_words(_HEAVY),
    "light": _with_words(_LIGHT),
    # one chain a row: residues first, as they are needed
    "sequence": ("sequencealignmentaa", "sequenceaa", "aasequence", "aaseq", "seqaa", "vdjaa", "sequencevdjaa", "aa",
                 "aminoacidsequence", "proteinsequence", "protein", "fv", "fvsequence", "fvaa", "scfv", "scfvsequence",
                 "antibodysequence", "chainsequence", "sequence", "seq"),
    "alignment": ("sequencealignment", "sequenceimgt"),
    "v_germline_start": ("vgermlinestart",),
    "id": ("id", "sequenceid", "antibodyid", "contigid", "seqid", "name", "antibodyname", "abname", "therapeutic",
           "antibody", "mab", "identifier", "sequenceidheavy"),
    "species": ("species", "organism", "speciesorigin", "heavyspecies", "speciesheavy"),
    "locus": ("locus", "chain", "chaintype", "igchain"),
    "v_call": ("vcall", "vgene", "vgenename", "vdomaingene"),
    "cell": ("cellid", "cell", "barcode", "cellbarcode", "dropletid"),
    "sample": ("sampleid", "sample", "samplename", "repertoireid", "donor", "donorid", "subject", "subjectid",
               "patient", "patientid", "run", "runid", "origident"),
    "molecules": ("umis", "umicount", "numis", "duplicatecount", "molecules", "moleculecount"),
    "reads": ("consensuscount", "reads", "readcount", "nreads"),
    "productive": ("productive", "functional"),
    "stop_codon": ("stopcodon", "stop"),
    "vj_in_frame": ("vjinframe", "inframe"),
    "is_cell": ("iscell",),
}  # fmt: skip
"""Field -> plain names that mean it, the most telling first."""
REGION_COLUMNS = ("fwr1", "cdr1", "fwr2", "cdr2", "fwr3", "cdr3", "fwr4")
_ALL = frozenset(name for names in USUAL_NAMES.values() for name in names)
_LOOKED_FOR = {
    "heavy": "VH, VHH, heavy, heavy chain, HC, alone or with sequence, seq, aa, protein",
    "light": "VL, VK, light, light chain, LC, alone or with sequence, seq, aa, protein",
}
_ELSEWHERE = (
    (("pdb", "hchain", "lchain"), "this is SAbDab's summary, which names the chains of structures and holds no "
     "residues: give the sequences of these chains, as FASTA or as a table with a column each"),
    (("barcode", "contigid", "cdr3"), "this is Cell Ranger's contig table of a version that writes CDR3 alone: give "
     "airr_rearrangement.tsv, which lies beside it"),
    (("clonotypeid", "cdr3saa"), "this is Cell Ranger's table of clonotypes, which holds CDR3s alone: give "
     "filtered_contig_annotations.csv or airr_rearrangement.tsv, which lie beside it"),
)  # fmt: skip
"""Tables that people take for sequences: (columns that tell them, what to give instead)."""


def count_known(header: Iterable[str], settings: ReadSettings) -> int:
    """How many names of a header mean something here, or are named in the settings."""
    named = {plain(name) for name in (*settings.columns.values(), *(settings.metadata or ())) if name}
    return sum(plain(name) in _ALL or plain(name) in named for name in header)


def named(name: str, names: Sequence[str]) -> str | None:
    """The column that the user means by `name`: the same letter by letter, or else plainly the same."""
    return name if name in names else next((other for other in names if plain(other) == plain(name)), None)


def resolve(place: str, names: Sequence[str], settings: ReadSettings) -> dict[str, list[str]]:
    """Field -> the columns that hold it, the most telling first; `sequences.columns` goes before the usual names.

    Raises InputError for a column of `sequences.columns` that is not there.
    """
    by_name = {plain(name): name for name in reversed(names)}
    found: dict[str, list[str]] = {}
    for key, usual in USUAL_NAMES.items():
        if key in settings.columns:
            asked = settings.columns[key]
            column = named(asked, names) if asked else None
            if asked and column is None:
                raise missing_column(place, f"sequences.columns.{key}", repr(asked), names)
            found[key] = [column] if column else []
        else:
            found[key] = [by_name[name] for name in usual if name in by_name]
    return found


def region_columns(names: Sequence[str]) -> list[str]:
    """The seven columns whose residues joined are the variable domain (10x: fwr1; AIRR: fwr1_aa), or none."""
    by_name = {plain(name): name for name in reversed(names)}
    for suffix in ("aa", "") if "fwr1nt" in by_name else ("aa",):
        if all(region + suffix in by_name for region in REGION_COLUMNS):
            return [by_name[region + suffix] for region in REGION_COLUMNS]
    return []


def missing_column(place: str, key: str, wanted: str, names: Sequence[str]) -> InputError:
    """The error for a column that is not there, with all that are."""
    return InputError(f"{place}, {key}: there is no column {wanted}; the columns are: {', '.join(names)}")


def no_chain(place: str, side: str, names: Sequence[str]) -> InputError:
    """The error for a table without the chain that is wanted: what was looked for, and what the table is if known."""
    have = {plain(name) for name in names}
    for columns, said in _ELSEWHERE:
        if have.issuperset(columns):
            return InputError(f"{place}: {said}; the columns are: {', '.join(names)}")
    looked = f"(looked for {_LOOKED_FOR[side]}, whatever the case and punctuation; and for one chain a row: "
    looked += "sequence_alignment_aa, sequence_aa, sequence_alignment, fwr1 to fwr4, sequence, protein, scFv)"
    return missing_column(place, f"sequences.columns.{side}", f"for the {side} chain {looked}", names)


_LOCUS = re.compile(r"\b(IG|TR)([A-Z])")
_TYPES = {
    "heavy": ("h", "vh", "vhh", "hc", "heavy", "igh"),
    "light": ("k", "l", "vk", "vl", "lc", "light", "kappa", "lambda", "igk", "igl"),
}
_WORD_TYPE = {word: side for side, words in _TYPES.items() for word in words}


def side_of(text: str) -> str | None:
    """heavy, light, or other (a T-cell receptor) from a locus, a word or gene names; None where it is not said.

    "Homsap IGKV1-39*01 F, or Homsap IGKV1D-39*01 F" is light: the genes count, not the first letter.
    """
    genes = {("other" if kind == "TR" else {"H": "heavy", "K": "light", "L": "light"}.get(letter, ""))
             for kind, letter in _LOCUS.findall(text.upper())} - {""}  # fmt: skip
    if genes:
        return genes.pop() if len(genes) == 1 else None
    first = re.match(r"[a-z]+", text.strip().lower().removesuffix("chain").strip(" _-"))
    return _WORD_TYPE.get(first.group()) if first else None
