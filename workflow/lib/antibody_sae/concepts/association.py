"""Which latent stands for what: every latent against every concept, beside everything simpler that could explain it.

Every reported figure is from test, unless its name ends in `_validation`; phases.py says how they come about.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.activations import Store
from antibody_sae.antibody import RESIDUES
from antibody_sae.concepts import phases
from antibody_sae.concepts.codes import VIEWS
from antibody_sae.concepts.labels import Labels
from antibody_sae.concepts.phases import Chosen, Encoding, Setup, Tested, Together, Training, Validation
from antibody_sae.concepts.rows import Floats, Ints
from antibody_sae.concepts.selection import SIMPLE, always_yes, at_choice
from antibody_sae.sae.model import SAE

if TYPE_CHECKING:
    from antibody_sae.sections import ConceptsSection

LEARNED = ("neuron", "pca", "untrained", "shuffled")
"""The simple baselines without position and residue, which define some concepts (a region is a range of positions), so
that no latent can beat them there."""
KEEP = 20
"""Pairs kept for each concept by F1 and by r on validation, even below the floor."""
BEST_CONCEPTS = 10
MARGIN = 0.2
"""F1 beyond always saying yes from which on a concept counts for a latent's complexity."""


@dataclass(frozen=True)
class Associations:
    """What `associate` found."""

    pairs: pd.DataFrame
    """associations.parquet"""
    best: pd.DataFrame
    """best.parquet"""
    latents: pd.DataFrame
    """latents/<...>.parquet, without the columns that name the SAE"""
    scores: dict[str, Tensor]
    """scores.safetensors: f1_validation, r_validation, f1 and r (test) of every latent and concept, [latents, concepts]
    float32, residue-level concepts first; of an antibody-level concept the pool with the better F1 on validation. A
    latent that is never active on the training split has f1_validation -1."""


def associate(
    store: Store,
    sae: SAE,
    labels: Labels,
    support: pd.DataFrame,
    baselines: pd.DataFrame,
    settings: ConceptsSection,
    lens: Floats | None = None,
    scratch: str | Path | None = None,
) -> Associations:
    """All latents of an SAE against all concepts.

    `support` is concepts.parquet, `baselines` the layer's baselines.parquet, `settings` the section `concepts:`, `lens`
    [latents, 20] the logit lens, `scratch` a folder for the temporary codes (12 k bytes a residue at most).
    """
    ok = support.set_index(["level", "concept"])["status"] == "ok"
    testable = [np.array([bool(ok[level, c]) for c in labels.names(level)], bool) for level, _ in VIEWS]
    setup = Setup(store, sae, labels, settings, testable, Together())
    encoded = phases.encode(setup, scratch)
    trained = phases.train(setup, encoded)
    validated = phases.validate(setup, encoded, trained)
    chosen = phases.choose(setup, encoded, trained, validated, baselines)
    tested = phases.test(setup, encoded, trained, validated, chosen)
    return _Tables(setup, encoded, trained, validated, chosen, tested).all(lens)


@dataclass(frozen=True)
class _Tables:
    """What the phases found, as tables."""

    setup: Setup
    encoded: Encoding
    trained: Training
    validated: Validation
    chosen: Chosen
    tested: Tested

    def _figures(self, v: int) -> dict[str, Floats]:
        """Every column of associations.parquet as [latents, concepts]."""
        choice, test = self.validated.choices[v], self.tested.tallies[v]
        shape = choice.f1.shape
        element = np.full(shape, np.nan)
        if v == 0:
            element = np.take_along_axis(test.element_recall(), choice.threshold[:, None], 1)[:, 0]
        return {
            "threshold": self.setup.thresholds[choice.threshold],
            **at_choice(test, choice),
            "element_recall": element,
            "auroc": test.auroc(),
            "r": test.r(),
            "support": np.broadcast_to(test.positives, shape),
            "q_value": self.tested.q[v],
            "f1_validation": choice.f1,
            "r_validation": self.validated.tallies[v].r(),
        }

    def all(self, lens: Floats | None) -> Associations:
        """The three tables and the scores."""
        floor, frames = self.setup.settings["floor"], []
        figures = [self._figures(v) for v in range(len(VIEWS))]
        for v, (level, how) in enumerate(VIEWS):
            f = figures[v]
            keep = np.maximum(f["f1"], f["f1_validation"]) >= floor
            keep |= np.fmax(np.abs(f["r"]), np.abs(f["r_validation"])) >= floor
            for by in ("f1_validation", "r_validation"):
                top = np.argsort(-np.nan_to_num(f[by], nan=-2), axis=0, kind="stable")[:KEEP]
                np.put_along_axis(keep, top, True, 0)
            keep &= self.setup.testable[v] & (self.trained.scales[v] > 0)[:, None]
            j, c = np.nonzero(keep)
            table = pd.DataFrame(
                {"latent": j, "concept": np.array(self.setup.names[v], object)[c], "level": level, "pool": how}
            )
            frames.append(table.assign(**{key: a[j, c] for key, a in f.items()}))
        return Associations(
            pd.concat(frames, ignore_index=True),
            self._best_table(figures),
            self._latent_table(figures, lens),
            self._scores(figures),
        )

    def _scores(self, figures: list[dict[str, Floats]]) -> dict[str, Tensor]:
        dead = [scale[:, None] <= 0 for scale in self.trained.scales]
        f1 = [np.where(dead[v], -1, f["f1_validation"]) for v, f in enumerate(figures)]
        by_mean = f1[2] > f1[1]
        out = {}
        for name in ("f1_validation", "r_validation", "f1", "r"):
            values = f1 if name == "f1_validation" else [f[name] for f in figures]
            wide = np.concatenate([values[0], np.where(by_mean, values[2], values[1])], 1)
            out[name] = torch.from_numpy(np.ascontiguousarray(wide, np.float32))
        return out

    def _wide_baselines(self) -> pd.DataFrame:
        """One row a (level, concept): f1_<baseline>, the strongest simple one and its F1 on test."""
        wide = self.tested.baselines.pivot_table(
            index=["level", "concept"], columns="baseline", values="f1", sort=False
        )
        simple_ones = wide[[b for b in SIMPLE if b in wide]]
        out = wide.add_prefix("f1_")
        out["simple_baseline"], out["f1_simple"] = simple_ones.idxmax(axis=1), simple_ones.max(axis=1)
        out["f1_learned"] = wide[[b for b in LEARNED if b in wide]].max(axis=1)
        return out

    def _best_table(self, figures: list[dict[str, Floats]]) -> pd.DataFrame:
        rows = []
        seen = [0] * len(VIEWS)
        chosen = {(VIEWS[v][0], c): (v, j) for v, j, c in self.chosen.best}
        for level in ("residue", "antibody"):
            for c, name in enumerate(self.setup.labels.names(level)):
                row: dict[str, Any] = {"concept": name, "level": level}
                if (level, c) in chosen:
                    v, j = chosen[level, c]
                    low, high = self.tested.intervals[v]
                    row |= {"pool": VIEWS[v][1], "latent": j} | {key: a[j, c] for key, a in figures[v].items()}
                    row |= {"f1_low": low[seen[v]], "f1_high": high[seen[v]]}
                    seen[v] += 1
                rows.append(row)
        table = pd.DataFrame(rows, columns=["concept", "level", "pool", "latent", *figures[0], "f1_low", "f1_high"])
        table["latent"] = table["latent"].astype("Int64")
        table = table.merge(self._wide_baselines(), on=["level", "concept"], how="left")
        known = table["latent"].notna()
        for bar in ("simple", "learned"):
            table[f"beats_{bar}"] = (table["f1"] > table[f"f1_{bar}"]).astype("boolean").where(known)
        compared = [str(c) for c in table if str(c).startswith("f1_")]
        table.loc[~known, compared] = np.nan
        table.loc[~known, "simple_baseline"] = None
        return table

    def _latent_table(self, figures: list[dict[str, Floats]], lens: Floats | None) -> pd.DataFrame:
        bars = self._wide_baselines()
        n_best = [sum(v == view for v, _, _ in self.chosen.best) for view in range(len(VIEWS))]
        seen = list(n_best)
        rows = []
        examples = self.encoded.patterns.examples(self.encoded.codes)
        associated, above = self._associated(figures), self._above_yes(figures)
        for j in range(self.setup.latents):
            row: dict[str, Any] = {
                "latent": j,
                "max_activation": float(self.trained.scales[0][j]),
                **self.encoded.patterns.measures(j),
                "n_concepts": len(associated[j]),
                "n_above_yes": int(above[j]),
            }
            if self.chosen.has_own[j]:
                v, c = int(self.chosen.own_view[j]), int(self.chosen.own_concept[j])
                level, name = VIEWS[v][0], self.setup.names[v][c]
                low, high = (x[seen[v]] for x in self.tested.intervals[v])
                seen[v] += 1
                f1, q = figures[v]["f1"][j, c], figures[v]["q_value"][j, c]
                bar, bar_name = float(bars["f1_simple"][level, name]), str(bars["simple_baseline"][level, name])
                significant = bool(q < self.setup.settings["q"])
                row |= {
                    "concept": name, "level": level, "pool": VIEWS[v][1], "f1": f1, "f1_low": low, "f1_high": high,
                    "q_value": q, "simple_baseline": bar_name, "f1_simple": bar,
                    "interpretable": significant and bool(f1 > bar),
                    "interpretable_strict": significant and bool(low > bar),
                }  # fmt: skip
            else:  # no concept could be tested: the columns are there all the same
                row |= dict.fromkeys(("concept", "level", "pool", "simple_baseline"))
                row |= dict.fromkeys(("f1", "f1_low", "f1_high", "q_value", "f1_simple"), np.nan)
                row |= {"interpretable": False, "interpretable_strict": False}
            row["best_concepts"] = json.dumps(associated[j][:BEST_CONCEPTS])
            row |= examples[j] | self.encoded.patterns.profiles(j)
            if lens is not None:
                order = np.argsort(-lens[j], kind="stable")[:5]
                row |= {"lens_residues": [RESIDUES[i] for i in order], "lens_logits": lens[j][order].astype(np.float32)}
            rows.append(row)
        return pd.DataFrame(rows)

    def _above_yes(self, figures: list[dict[str, Floats]]) -> Ints:
        """[latents] concepts whose F1 on test exceeds that of always saying yes by MARGIN, q below the level."""
        hits = [
            (f["q_value"] < self.setup.settings["q"]) & (f["f1"] >= always_yes(self.tested.tallies[v]) + MARGIN)
            for v, f in enumerate(figures)
        ]
        counts: Ints = hits[0].sum(1) + (hits[1] | hits[2]).sum(1)
        return counts

    def _associated(self, figures: list[dict[str, Floats]]) -> list[list[dict[str, Any]]]:
        """Per latent, the concepts it is associated with: q below the level and F1 at or above the floor, best first;
        of an antibody-level concept's two pools the better one on validation."""
        out: list[list[tuple[float, dict[str, Any]]]] = [[] for _ in range(self.setup.latents)]
        for v, (level, how) in enumerate(VIEWS):
            f = figures[v]
            hit = (f["q_value"] < self.setup.settings["q"]) & (f["f1"] >= self.setup.settings["floor"])
            if v:
                hit &= f["f1_validation"] >= figures[3 - v]["f1_validation"]
            if v == 2:
                hit &= f["f1_validation"] > figures[1]["f1_validation"]
            for j, c in zip(*np.nonzero(hit), strict=True):
                entry: dict[str, Any] = {"concept": self.setup.names[v][c], "level": level, "pool": how}
                for key in ("f1", "precision", "recall", "auroc", "r", "threshold"):
                    value = float(f[key][j, c])
                    entry[key] = round(value, 4) if np.isfinite(value) else None
                entry["q_value"] = float(f"{f['q_value'][j, c]:.2e}")
                out[j].append((float(f["f1_validation"][j, c]), entry))
        return [[entry for _, entry in sorted(found, key=lambda x: -x[0])] for found in out]
