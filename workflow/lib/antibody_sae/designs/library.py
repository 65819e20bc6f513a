"""Writing a library: batches under a lever, the constraints, and the price of what is left.

>>> model = models.load({"name": "iglm"})
>>> sae = SAE.load("results/default/saes/layer2/ordered-seed0")
>>> lever = interventions.push(sae, {"29": 1.0})  # latent 29, at the largest activation it has on training data
>>> library = design(model, sae.config["layer"], lever, 100, Constraints(max_perplexity=4.0))
>>> outputs.write(library, "j4")  # j4.fasta, j4.tsv, j4-picked.csv
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import gammaincinv

from antibody_sae.designs import liabilities, parents, picking
from antibody_sae.designs.constraints import Constraints, checks, funnel, in_words, label, quota
from antibody_sae.interventions import Intervention
from antibody_sae.io import InputError
from antibody_sae.models.generation import BATCH
from antibody_sae.steering import alternatives, outcomes, sampling

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel
    from antibody_sae.sections import ConceptsSection, NumberingSection, Writing

WRITING: Writing = {
    "chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": "", "complete": True
}  # fmt: skip
NUMBERING: NumberingSection = {"species": ["human"], "scheme": "imgt"}
MOST_TRIES = 50
"""Sequences written for each one that is wanted, before the constraints count as not to be met."""
ANY = Constraints()
"""Whole, distinct domains."""
_NOT_NEEDED = "not needed"
AIRR = {"FR1": "fwr1", "CDR1": "cdr1", "FR2": "fwr2", "CDR2": "cdr2", "FR3": "fwr3", "CDR3": "cdr3", "FR4": "fwr4"}


@dataclass(frozen=True)
class Writer:
    """What writes sequences and judges each by itself; the lever comes with each call."""

    model: AntibodyModel
    layer: int
    constraints: Constraints
    seed: int
    writing: Writing = field(default_factory=lambda: WRITING)
    numbering: NumberingSection = field(default_factory=lambda: NUMBERING)
    concepts: ConceptsSection | None = None
    parent: parents.Parent | None = None
    infill: bool = False
    """Rewrite the parent's regions by infilling rather than from a prompt."""

    def batches(self, lever: Intervention, stream: int) -> Iterator[CheckedBatch]:
        """Batches without end; what batch b of a stream holds depends on the seed, the stream and b alone."""
        number = 0
        while True:
            written, tokens = self._write(lever, [self.seed, stream, number])
            yield self.examine(written.assign(row=range(len(written)), batch=number), tokens)
            number += 1

    def _write(self, lever: Intervention, seed: Sequence[int]) -> tuple[pd.DataFrame, int]:
        """(text, ended and, where it is known, log_likelihood; tokens that the model wrote) of one batch."""
        counts = [BATCH]
        if self.parent is None or not self.infill:
            prompt = self.writing["prompt"] if self.parent is None else self.parent.prompt
            writing: Writing = {**self.writing, "prompt": prompt}
            table = sampling.generate(self.model, self.layer, [lever], counts, writing, seed)
            written = int(table["text"].str.len().sum() + table["ended"].sum())
            return table[["text", "ended", "log_likelihood"]], written - len(prompt) * len(table)
        writing = {**self.writing, "prompt": "", "complete": False, "max_residues": alternatives.LONGEST_SPAN}
        spans: dict[str, list[str]] = {}
        ends, tokens = np.ones(BATCH, bool), 0
        for i, (region, (start, end)) in enumerate(self.parent.spans.items()):
            read = self.parent.sequence[:start], self.parent.sequence[end:]
            model = alternatives.filler(self.model, writing["chains"], writing["species"], *read)
            table = sampling.generate(model, self.layer, [lever], counts, writing, [*seed, i])
            spans[region] = table["text"].tolist()
            ends &= table["ended"].to_numpy(bool)
            tokens += int(table["text"].str.len().sum() + table["ended"].sum())
        texts = [self.parent.compose({r: spans[r][i] for r in spans}) for i in range(BATCH)]
        return pd.DataFrame({"text": texts, "ended": ends}), tokens

    def examine(self, written: pd.DataFrame, tokens: int) -> CheckedBatch:
        """Number texts (column text, ended) and check what a sequence can meet by itself."""
        anything: Writing = {
            **self.writing,
            "complete": False,
        }  # whole domains are a constraint, whose yield is asked for
        found = outcomes.number_texts(written["text"], anything, self.numbering)
        table = written.merge(found.antibodies, on="text", how="left", validate="many_to_one")
        table["perplexity"] = np.nan
        if self.constraints.max_perplexity is not None:
            table["perplexity"] = self.perplexity(table, table["valid"].to_numpy(bool))
        rates, species = list(self.constraints.rates), self.writing["species"]
        held = label(found, rates, self.concepts, species) if self.concepts else {}
        place = pd.Series(range(len(found.antibodies)), index=found.antibodies["text"])[table["text"]].to_numpy()
        labels = {concept: has[place] for concept, has in held.items()}
        return CheckedBatch(table, found, labels, checks(table, found, self.constraints, labels), tokens)

    def perplexity(self, table: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
        """[len(table)] under the unsteered model, nan but for `rows` [len(table)] bool."""
        if "log_likelihood" in table:
            return np.asarray(np.exp(-table["log_likelihood"].where(rows).to_numpy(float)))
        out = np.full(len(table), np.nan)
        texts = table["text"].to_numpy()[rows].tolist()
        out[rows] = np.exp(-sampling.log_likelihoods(self.model, texts, self.writing, self.numbering["species"]))
        return out


@dataclass(frozen=True)
class CheckedBatch:
    """Sequences that were written together, numbered and checked."""

    table: pd.DataFrame
    """text, ended, row, batch, antibody_id, heavy, light, valid, perplexity."""
    found: outcomes.NumberedTexts
    labels: Mapping[str, np.ndarray]
    """Concept -> [rows] bool."""
    checked: pd.DataFrame
    """[rows] one bool column a constraint."""
    tokens: int
    """Tokens that the model wrote."""


@dataclass(frozen=True)
class Library:
    """A library, and what it cost."""

    chains: pd.DataFrame
    """One row a chain, the designs in order of rank: AIRR columns and those of `describe`."""
    funnel: list[dict[str, Any]]
    tokens: int
    """Tokens that the model wrote for it."""
    written: int
    """Sequences."""
    surplus: int
    """Sequences of the last batch that were good, but no longer needed."""

    @property
    def designs(self) -> list[str]:
        """Names in order of rank."""
        return self.chains["cell_id"].drop_duplicates().tolist()

    @property
    def price(self) -> float:
        """Tokens written for each sequence that meets the constraints."""
        return self.tokens / (len(self.designs) + self.surplus)


def design(
    model: AntibodyModel,
    layer: int,
    lever: Intervention,
    n: int,
    constraints: Constraints = ANY,
    *,
    name: str = "library",
    seed: int = 1,
    writing: Writing = WRITING,
    numbering: NumberingSection = NUMBERING,
    concepts: ConceptsSection | None = None,
    training: Mapping[str, str] | None = None,
    parent: parents.Parent | None = None,
    infill: bool = False,
) -> Library:
    """Write sequences under a lever until n of them meet the constraints.

    Parameters
    ----------
    lever
        `interventions.push` or `clamp` of an SAE's latents, `Intervention(vector=...)` of a direction [d_model], or
        `Intervention()`: plain rejection sampling.
    writing, numbering, concepts
        The sections `sequences` (chains, species, temperature, top_p, prompt), `numbering` (species, scheme) and
        `concepts` (only for `rates`) of a configuration.
    training
        Sequences (heavy and light together) -> names, among which each design's nearest is looked for.
    parent, infill
        See `parents`.

    Raises
    ------
    InputError
        Once n designs will not be reached in MOST_TRIES * n sequences, with the yield of every constraint.
    """
    if constraints.rates and concepts is None:
        raise InputError("design: constraints.rates needs the section `concepts` of a configuration")
    if constraints.min_training_distance and not training:
        raise InputError("design: constraints.min_training_distance needs `training` sequences")
    writer = Writer(model, layer, constraints, seed, writing, numbering, concepts, parent, infill)
    return collect(writer, lever, n, name, training or {})


def collect(writer: Writer, lever: Intervention, n: int, name: str, training: Mapping[str, str]) -> Library:
    """`design`, with its settings in a Writer."""
    chosen = _Chosen(writer.constraints, n, list(training))
    kept: list[pd.DataFrame] = []
    checked: list[pd.DataFrame] = []
    tokens = 0
    for batch in writer.batches(lever, stream=0):
        rows = chosen.take(batch)
        checked.append(batch.checked)
        tokens += batch.tokens
        if rows:
            kept.append(describe(writer, batch, rows))
        if len(chosen.texts) == n:
            break
        written = sum(map(len, checked))
        # the largest yield that is compatible with what was accepted (Poisson, 95 %, one-sided)
        if gammaincinv(len(chosen.texts) + 1, 0.95) < written / MOST_TRIES or written >= MOST_TRIES * n:
            rows_left = funnel(pd.concat(checked), chosen.refused, len(chosen.texts))
            raise InputError(
                f"design {name}: {len(chosen.texts)} of {n} designs after {written} sequences; loosen what few "
                f"sequences meet, push otherwise, or ask for fewer\n{in_words(rows_left)}"
            )
    chains = _ranked(pd.concat(kept, ignore_index=True), name)
    steps = funnel(pd.concat(checked), chosen.refused, n)
    written = sum(map(len, checked))
    return Library(_neighbours(chains, training), steps, tokens, written, chosen.refused[_NOT_NEEDED])


class _Chosen:
    """What was accepted so far, and what else is because of it."""

    def __init__(self, constraints: Constraints, n: int, training: Sequence[str]) -> None:
        self._constraints, self._n, self._training = constraints, n, training
        self._counts = dict.fromkeys(constraints.quotas, 0)
        self.texts: list[str] = []
        self.refused: Counter[str] = Counter()

    def take(self, batch: CheckedBatch) -> list[int]:
        """Rows of a batch that are accepted."""
        chosen = []
        for i in np.flatnonzero(batch.checked.all(axis=1)).tolist():
            text = str(batch.table["text"].iloc[i])
            has = {concept: bool(batch.labels[concept][i]) for concept in self._counts}
            why = _NOT_NEEDED if len(self.texts) == self._n else self._refusal(text, has)
            if why:
                self.refused[why] += 1
                continue
            chosen.append(i)
            self.texts.append(text)
            self._counts = {c: count + has[c] for c, count in self._counts.items()}
        return chosen

    def _refusal(self, text: str, has: Mapping[str, bool]) -> str | None:
        limits = self._constraints
        if limits.distinct and text in self.texts:
            return "distinct"
        if why := quota(has, self._counts, limits.quotas, len(self.texts), self._n):
            return why
        for name, others, least in (
            ("min_distance", self.texts, limits.min_distance),
            ("min_training_distance", self._training, limits.min_training_distance),
        ):
            if least and others and picking.distances([text], others).min() < least:
                return name
        return None


def describe(writer: Writer, batch: CheckedBatch, rows: Sequence[int]) -> pd.DataFrame:
    """One row a chain of numbered sequences: AIRR columns, liabilities, charge, hydropathy, mutations, perplexity, and
    text (the whole antibody), seed, batch and row, which write it again."""
    table = batch.table.iloc[list(rows)].copy()
    unknown = table["perplexity"].isna().to_numpy()
    table.loc[unknown, "perplexity"] = writer.perplexity(table, unknown)[unknown]
    by_chain = dict(list(batch.found.residues.groupby(["antibody_id", "chain"], sort=False)))
    numbered = batch.found.chains.set_index(["antibody_id", "side"]).to_dict("index")
    out = []
    for each in table.itertuples():
        for side in ("heavy", "light"):
            sequence = getattr(each, side)
            if not isinstance(sequence, str):
                continue
            found: Any = numbered[each.antibody_id, side]
            residues = by_chain[each.antibody_id, found["chain"]]
            out.append(
                {"side": side, "sequence_aa": sequence, **_airr(found, residues), **liabilities.describe(residues)}
                | {"perplexity": each.perplexity, "text": each.text}
                | {"seed": writer.seed, "batch": each.batch, "row": each.row}
            )
    return pd.DataFrame(out)


def _airr(found: Mapping[str, Any], residues: pd.DataFrame) -> dict[str, Any]:
    """Germlines, regions and numbering ("1:E 2:V ...") of one chain."""
    regions = residues.groupby("region")["residue"].agg("".join)
    inside = residues[residues["imgt"].notna()]
    places = inside["imgt"].astype(int).astype(str) + inside["insertion"].fillna("")
    return {
        "locus": f"IG{found['chain']}",
        "v_call": found["v_allele"],
        "j_call": found["j_allele"],
        "v_identity": found["v_identity"],
        "j_identity": found["j_identity"],
        "junction_aa": "".join(inside.loc[inside["imgt"].between(104, 118), "residue"]),
        **{f"{airr}_aa": regions.get(region, "") for region, airr in AIRR.items()},
        "numbering": " ".join(places + ":" + inside["residue"]),
    }


def _ranked(chains: pd.DataFrame, name: str) -> pd.DataFrame:
    """Chains in order of rank, with names that say library and rank: fewest liabilities in CDRs first, then the lowest
    perplexity. Names are unique over all libraries of a run, for a run's libraries have different names."""
    key = ["batch", "row"]
    quality = chains.groupby(key).agg(bad=("cdr_liabilities", "sum"), perplexity=("perplexity", "first"))
    order = quality.sort_values(["bad", "perplexity"]).index
    rank = pd.Series(range(1, len(order) + 1), index=order)
    width = max(4, len(str(len(order))))
    place = rank[pd.MultiIndex.from_frame(chains[key])].to_numpy()
    cells = [f"{name}-{i:0{width}d}" for i in place]
    named = chains.assign(rank=place, cell_id=cells)
    named.insert(0, "sequence_id", named["cell_id"] + "-" + named["side"])
    return named.sort_values(["rank", "side"], kind="stable", ignore_index=True)


def _neighbours(chains: pd.DataFrame, training: Mapping[str, str]) -> pd.DataFrame:
    """With each design's nearest training sequence and nearest other design, and their distances in residues."""
    cells = chains.drop_duplicates("cell_id")
    texts, names = cells["text"].tolist(), cells["cell_id"].to_numpy()
    table = pd.DataFrame({"cell_id": names})
    if training:
        index, distance = picking.nearest(texts, list(training))
        known = list(training.values())
        table["nearest_training"], table["training_distance"] = [known[i] for i in index], distance
    if len(texts) > 1:
        between = picking.distances(texts)
        np.fill_diagonal(between, np.iinfo(between.dtype).max)
        table["nearest_design"], table["design_distance"] = names[between.argmin(1)], between.min(1)
    return chains.merge(table, on="cell_id", how="left", validate="many_to_one")


@dataclass(frozen=True)
class Sample:
    """Sequences written to compare with, under the constraints that a sequence meets by itself."""

    written: int
    accepted: int
    tokens: int
    chains: pd.DataFrame
    """`describe` of those that are whole domains, concepts and limits aside."""

    @property
    def price(self) -> float:
        """Tokens for each sequence that meets the constraints; infinite where none does."""
        return self.tokens / self.accepted if self.accepted else float("inf")

    @property
    def price_range(self) -> tuple[float, float | None]:
        """95 % interval of the price (Poisson); no upper end where no sequence was accepted."""
        low = gammaincinv(self.accepted, 0.025) if self.accepted else 0.0
        high = gammaincinv(self.accepted + 1, 0.975)
        return self.tokens / high, self.tokens / low if low else None


WHOLE = ("numbered and ended", "complete", "conserved")


def sample(writer: Writer, lever: Intervention, n: int, stream: int, described: bool) -> Sample:
    """At least n sequences under a lever, in whole batches."""
    accepted = written = tokens = 0
    seen: set[str] = set()
    chains = []
    for batch in writer.batches(lever, stream):
        good = batch.checked.all(axis=1).to_numpy()
        new = set(batch.table.loc[good, "text"]) - seen
        accepted += len(new) if writer.constraints.distinct else int(good.sum())
        seen |= new
        tokens += batch.tokens
        written += len(batch.table)
        if described:
            chains.append(whole(writer, batch))
        if written >= n:
            break
    return Sample(written, accepted, tokens, pd.concat(chains, ignore_index=True) if chains else pd.DataFrame())


def whole(writer: Writer, batch: CheckedBatch) -> pd.DataFrame:
    """`describe` of a batch's whole domains, whatever concepts and limits the design asks for."""
    columns = [name for name in WHOLE if name in batch.checked]
    rows = np.flatnonzero(batch.checked[columns].all(axis=1)).tolist()
    return describe(writer, batch, rows) if rows else pd.DataFrame()
