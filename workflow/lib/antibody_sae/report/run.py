"""A run's files as the report reads them, and the words for what they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from antibody_sae.config import layers, passages, saes, seeds
from antibody_sae.io import InputError, read_json, read_parquet
from antibody_sae.sae.prefixes import ARCHITECTURES
from antibody_sae.sae.settings import ACTIVATIONS
from antibody_sae.steering.arms import SPARSE

if TYPE_CHECKING:
    from antibody_sae.sections import Config

CONTROLS = {
    "difference_of_means": "difference of means",
    "probe": "linear probe",
    "rate_derivative": "rate derivative, as a vector",
    "trained": "trained vector",
    "located": "vector trained where the target is decided",
    "matched_latent": "matched latent",
    "shuffled_sign": "shuffled signs",
}
"""What was steered beside the latents that a criterion chose, in words."""


CHAINS = {"H": "heavy chains", "L": "light chains", "HL": "paired antibodies"}


def kind_label(kind: str) -> str:
    """A kind of arm in words: `sparse_8` is 8 latents."""
    if few := re.fullmatch(SPARSE, kind):
        return f"{few[2]} latent{'s' * (few[2] != '1')}{', trained' * bool(few[1])}"
    return CONTROLS.get(kind, kind.replace("_", " "))


@dataclass(frozen=True)
class TrainedSAE:
    """One SAE of a run."""

    layer: int
    name: str
    seed: int

    @property
    def folder(self) -> str:
        return f"layer{self.layer}/{self.name}-seed{self.seed}"

    @property
    def key(self) -> str:
        """Names it in the page's addresses and element ids."""
        return f"layer{self.layer}-{self.name}-seed{self.seed}"

    @property
    def title(self) -> str:
        return title(self.name)


def title(name: str) -> str:
    """An SAE's name as text: its architecture's or activation's title where it is called by that."""
    return ARCHITECTURES[name].title if name in ARCHITECTURES else ACTIVATIONS.get(name, name)


def rows(table: pd.DataFrame) -> Iterator[Any]:
    """The table's rows as named tuples."""
    return table.itertuples()


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The table's rows as dicts by column."""
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def grouped(table: pd.DataFrame, by: str | list[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    """(key or keys, rows) in order of first appearance; nothing for an empty table."""
    return iter(table.groupby(by, sort=False) if len(table) else [])


def slug(text: str) -> str:
    """A name for files from any text."""
    kept = "".join(c if c.isalnum() and c.isascii() else "-" for c in text.lower())
    return "-".join(filter(None, kept.split("-"))) or "x"


class Run:
    """The files of one run, read when first asked for."""

    def __init__(self, folder: str | Path, config: Config) -> None:
        self.folder, self.config = Path(folder), config
        self.settings = saes(config)
        self.saes = [
            TrainedSAE(layer, name, seed)
            for layer in config["activations"]["layers"]
            for name in self.settings
            if layer in layers(config)[name]
            for seed in seeds(config)[name]
        ]
        self.many_layers = len(config["activations"]["layers"]) > 1
        self.many_seeds = len({sae.seed for sae in self.saes}) > 1

    def title(self, sae: TrainedSAE) -> str:
        """The SAE's title, with layer and seed where the run has several, and where it comes from if it was loaded."""
        layer, seed = f", layer {sae.layer}" * self.many_layers, f", seed {sae.seed}" * self.many_seeds
        return f"{sae.title}{layer}{seed}" + (f", {self.source(sae)}" if sae in self.loaded else "")

    @cached_property
    def loaded(self) -> dict[TrainedSAE, dict[str, Any]]:
        """config.json of each SAE that was loaded, not trained."""
        of = [sae for sae in self.saes if "load" in self.settings[sae.name]]
        return {sae: read_json(self.folder / "saes" / sae.folder / "config.json") for sae in of}

    def source(self, sae: TrainedSAE) -> str:
        """Where a loaded SAE comes from, in words."""
        of = self.loaded[sae]["loaded"]
        return f"loaded ({of['library']} {of['kind']})"

    def shape(self, sae: TrainedSAE) -> dict[str, int]:
        """An SAE's `latents` (both ends of an axis count) and `k`; of a loaded one they are the checkpoint's."""
        if sae in self.loaded:
            return {key: self.loaded[sae][key] for key in ("latents", "k")}
        own = self.settings[sae.name]
        return {"latents": own["latents"] * (2 if own["activation"] == "abstopk" else 1), "k": own["k"]}

    def table(self, path: str, columns: list[str] | None = None) -> pd.DataFrame:
        """A Parquet table of the run; empty if the run has none."""
        file = self.folder / path
        return read_parquet(file, columns) if file.exists() else pd.DataFrame()

    def csv(self, name: str) -> pd.DataFrame:
        """tables/<name>.csv; empty if the run has none. The column `sae` becomes the SAE's title."""
        file = self.folder / "tables" / f"{name}.csv"
        if not file.exists():
            return pd.DataFrame()
        try:
            table = pd.read_csv(file, keep_default_na=True)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: not readable as CSV ({error}); delete it and run again to rebuild it") from error
        return table.assign(sae=table["sae"].map(title)) if "sae" in table else table

    def of_saes(self, path: str, columns: list[str] | None = None) -> pd.DataFrame:
        """The table at `path`, in which {} is layer<L>/<sae>-seed<S>, of every SAE; adds layer, sae (title), seed."""
        frames = [
            self.table(path.format(sae.folder), columns).assign(layer=sae.layer, sae=sae.title, seed=sae.seed)
            for sae in self.saes
        ]
        there = [frame for frame in frames if len(frame)]
        return pd.concat(there, ignore_index=True) if there else pd.DataFrame()

    @cached_property
    def effects(self) -> pd.DataFrame:
        """Every steering arm of every SAE by target, explored and confirmed."""
        return self.of_saes("steering/{}/effects.parquet")

    @cached_property
    def best(self) -> pd.DataFrame:
        """The best latent of every SAE and concept beside its baselines; only concepts that could be tested."""
        table = self.of_saes("concepts/{}/best.parquet")
        return table[table["latent"].notna()].reset_index(drop=True) if len(table) else table

    @cached_property
    def criteria(self) -> pd.DataFrame:
        """The confirmed arms by SAE, target and way of choosing the latent."""
        return self.csv("steering_by_criterion")

    @property
    def best_f1(self) -> pd.DataFrame:
        """Of each SAE and target the confirmed arm of the latent with the best F1, pushed to raise the target."""
        table = self.criteria
        return table[(table["selected_by"] == "f1") & (table["length"] > 0)] if len(table) else table

    @property
    def apart(self) -> bool:
        """Whether the chains of pairs are written, and so steered, one at a time."""
        return len(passages(self.config)) > 1

    @property
    def targets(self) -> list[str]:
        """Concepts that steering aims at; none where the rule that chooses them has not run."""
        file, named = self.folder / "steering" / "targets.json", self.config["steering"]["targets"]
        return list(read_json(file)["targets"] if file.exists() else named if named != "auto" else [])
