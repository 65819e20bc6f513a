"""Judges that had no part in the writing: a model that judges what it wrote itself says little.

None is in the base install: `make oracles` adds the packages of envs/oracles.lock, which bring their data and weights
with them. A design switches a judge on by its name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.io import InputError, progress

SIDES = ("heavy", "light")
STRIDE = 8
"""AntiBERTy sees every 8th residue masked at a time: 8 passes a chain, not one a residue. About the share of 15 % that
it was trained with."""
PARTNER = {
    "name": "trastuzumab light chain",
    "sequence": (
        "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
    ),
}
"""Light chain beside which a heavy chain alone is judged by those who judge pairs only (a design's `partner`)."""
TAP_FLAGS = {"PSH": (107.61, 170.70), "PPC": (None, 1.20), "PNC": (None, 1.90), "SFvCSP": (-6.17, None)}
"""(lowest, highest) FlashTAP score without a flag: where flash-abb's own calibrator puts the chance that TAP raises an
amber or red flag at one half. The calibrator comes as a pickle; it was read once without running its code, and a test
reads it again."""


@dataclass(frozen=True)
class Judge:
    """One judge, and what a user decides by."""

    package: str
    version: str
    licence: str
    asks: str
    """What it looks at, in a sentence."""
    score: Callable[[pd.DataFrame, Mapping[str, str]], pd.DataFrame]
    """(antibodies [n] with heavy and light, null where absent; partner) -> one row an antibody, in order."""


COMPARED = 100
"""Antibodies at most of each set that a library is compared with, evenly spaced: a judge may take seconds for each."""


def judged(chains: pd.DataFrame) -> pd.DataFrame:
    """One row an antibody that is judged (set, cell_id, heavy, light) of a table with one row a chain: every design,
    and at most COMPARED of each other set."""
    wide = chains.pivot(index=["set", "cell_id"], columns="side", values="sequence_aa").reset_index()
    wide = wide.reindex(columns=["set", "cell_id", *SIDES])
    parts = []
    for kind, table in wide.groupby("set", sort=False):
        most = len(table) if kind == "design" else min(len(table), COMPARED)
        parts.append(table.iloc[np.unique(np.linspace(0, len(table) - 1, most).round().astype(int))])
    return pd.concat(parts, ignore_index=True)


def run(name: str, antibodies: pd.DataFrame, partner: Mapping[str, str] = PARTNER) -> pd.DataFrame:
    """Scores of one judge, one row an antibody in order.

    `antibodies` has the columns heavy and light (null where absent); `partner` (name, sequence) is the light chain that
    stands in where a judge of pairs meets a heavy chain alone. Raises InputError where the judge is unknown or its
    package is not installed.
    """
    if name not in JUDGES:
        raise InputError(f"designs: no judge {name!r}; there are {', '.join(JUDGES)}")
    judge = JUDGES[name]
    try:
        found = metadata.version(judge.package)
    except metadata.PackageNotFoundError:
        found = None
    if found != judge.version:
        raise InputError(
            f"designs: judge {name} needs {judge.package} {judge.version} ({judge.licence}), "
            f"{f'found {found}' if found else 'which is not installed'}; install the judges: make oracles"
        )
    return judge.score(antibodies, partner).reset_index(drop=True)


def _folder(module: str) -> Path:
    """Folder of an installed package, without importing it."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


# --- OASis ------------------------------------------------------------------------------------------------------------


@cache
def human_peptides() -> frozenset[str]:
    """The 9-residue peptides that at least 10 % of OAS's human subjects have (some seconds to load)."""
    from promb import init_db

    return frozenset(init_db("human-oas", verbose=False).peptides)


def oasis_identity(chain: str, peptides: frozenset[str]) -> float:
    """Share of a chain's 9-residue peptides that are human (OASis at 10 %: Prihoda et al., mAbs 14:2020203, 2022)."""
    windows = [chain[i : i + 9] for i in range(len(chain) - 8)]
    return sum(window in peptides for window in windows) / len(windows) if windows else float("nan")


def _oasis(antibodies: pd.DataFrame, partner: Mapping[str, str]) -> pd.DataFrame:
    peptides = human_peptides()
    return pd.DataFrame(
        {
            f"oasis_{side}": [oasis_identity(c, peptides) if isinstance(c, str) else np.nan for c in antibodies[side]]
            for side in SIDES
        }
    )


# --- AntiBERTy --------------------------------------------------------------------------------------------------------

_SPECIES = ("camel", "human", "mouse", "rabbit", "rat", "rhesus")


class AntiBerty:
    """AntiBERTy (Ruffolo et al. 2021, arXiv:2112.07782): its package's weights in transformers' own BERT.

    The package's class does not load under transformers 5; the weights are read as tensors alone (weights_only).
    """

    def __init__(self) -> None:
        import torch
        import transformers

        folder = _folder("antiberty") / "trained_models"
        checkpoint = folder / "AntiBERTy_md_smooth"
        state = torch.load(checkpoint / "pytorch_model.bin", map_location="cpu", weights_only=True)
        config = transformers.BertConfig.from_pretrained(checkpoint)
        self.bert = transformers.BertForPreTraining(config).eval()
        missing = self.bert.load_state_dict(state, strict=False).missing_keys
        if lost := [key for key in missing if not key.startswith("cls.seq_relationship")]:
            raise InputError(f"{checkpoint}: weights lack {lost[:3]}; reinstall antiberty: make oracles")
        self.heads = {h: (state[f"cls.{h}.weight"], state[f"cls.{h}.bias"]) for h in ("species", "chain")}
        self.ids = {token: i for i, token in enumerate((folder / "vocab.txt").read_text(encoding="utf-8").split())}

    def score(self, chain: str) -> dict[str, Any]:
        """pll (mean log-likelihood of a residue given the others, nats), human (probability), species, chain."""
        import torch

        n = len(chain)
        row = [self.ids["[CLS]"], *(self.ids.get(r, self.ids["[UNK]"]) for r in chain), self.ids["[SEP]"]]
        tokens = torch.tensor([row]).repeat(STRIDE + 1, 1)  # the last copy is whole
        places = torch.arange(n)
        tokens[places % STRIDE, places + 1] = self.ids["[MASK]"]
        with torch.inference_mode():
            out = self.bert.bert(input_ids=tokens)
            logits = self.bert.cls.predictions(out.last_hidden_state)[places % STRIDE, places + 1]
            logits[:, : self.ids["A"]] = -torch.inf  # the special tokens come first
            likelihood = logits.log_softmax(-1)[places, torch.tensor(row[1:-1])].mean().item()
            pooled = out.pooler_output[-1]
            species, kind = ((w @ pooled + b).softmax(0) for w, b in self.heads.values())
        return {
            "pll": likelihood,
            "human": float(species[_SPECIES.index("human")]),
            "species": _SPECIES[int(species.argmax())],
            "chain": SIDES[int(kind.argmax())],
        }


def _antiberty(antibodies: pd.DataFrame, partner: Mapping[str, str]) -> pd.DataFrame:
    judge = AntiBerty()
    rows = []
    for pair in progress(antibodies[list(SIDES)].to_dict("records"), len(antibodies), "AntiBERTy"):
        scores = {side: judge.score(chain) for side, chain in pair.items() if isinstance(chain, str)}
        rows.append({f"antiberty_{key}_{side}": v for side, found in scores.items() for key, v in found.items()})
    return pd.DataFrame(rows, index=antibodies.index)


# --- FlashTAP and FlashABB --------------------------------------------------------------------------------------------


@contextmanager
def _tensors_only() -> Iterator[None]:
    """flash-abb reads its weights with weights_only=False; under this, torch refuses anything but tensors."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def _flashtap(antibodies: pd.DataFrame, partner: Mapping[str, str]) -> pd.DataFrame:
    import torch
    from flash_abb.load_model import fetch_tap

    with _tensors_only():
        encoder, head = (part.eval() for part in fetch_tap(device="cpu"))
    plddt: list[torch.Tensor] = []  # of the structure that the scores are read from
    encoder.folder.flabb.model.register_forward_hook(lambda module, args, out: plddt.append(out["plddt"]))
    rows: list[dict[str, Any]] = []
    pairs = antibodies[list(SIDES)].to_dict("records")
    for heavy, light in progress([(p["heavy"], p["light"]) for p in pairs], len(pairs), "FlashTAP"):
        if not isinstance(heavy, str):
            rows.append({})  # a light chain alone has no partner to be judged with
            continue
        alone = not isinstance(light, str)
        text = f"{heavy}|{partner['sequence'] if alone else light}"
        plddt.clear()
        with torch.inference_mode():
            tokens = encoder.alphabet([text], pad=True, w_extra_tkns=False)
            inside = torch.ones(1, len(text) - 1, dtype=torch.bool)
            scores = head(encoder([text], tokens, ~torch.ones_like(tokens, dtype=torch.bool), return_emb=True), inside)
        named = dict(zip(("PSH", "PPC", "PNC", "SFvCSP"), scores[0].tolist(), strict=True))
        centres = (torch.arange(50) + 0.5) / 50
        rows.append(
            {f"flashtap_{key.lower()}": value for key, value in named.items()}
            | {
                "flashtap_flags": sum(flagged(key, value) for key, value in named.items()),
                "flashabb_confidence": float((plddt[0][0].softmax(-1) @ centres).mean()),
                "flashtap_partner": partner["name"] if alone else None,
            }
        )
    return pd.DataFrame(rows, index=antibodies.index)


def flagged(score: str, value: float) -> bool:
    """Whether a FlashTAP score lies outside TAP_FLAGS."""
    low, high = TAP_FLAGS[score]
    return (low is not None and value < low) or (high is not None and value > high)


JUDGES = {
    "oasis": Judge(
        "promb", "1.0.2", "MIT", "humanness: the share of 9-residue peptides that 10 % of human subjects have", _oasis
    ),
    "antiberty": Judge(
        "antiberty", "0.1.3", "MIT", "naturalness by a masked language model; its species and chain heads", _antiberty
    ),
    "flashtap": Judge(
        "flash-abb", "0.0.5", "BSD-3-Clause",
        "developability (TAP's PSH, PPC, PNC, SFvCSP) of a predicted Fv structure, and the structure's confidence",
        _flashtap,
    ),
}  # fmt: skip


def licences(names: Sequence[str]) -> str:
    """A line that says what the judges are and under which licence."""
    return "; ".join(f"{n}: {JUDGES[n].package} {JUDGES[n].version} ({JUDGES[n].licence})" for n in names)
