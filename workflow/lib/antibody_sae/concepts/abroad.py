"""Another finished run of the same model: what of it can be held beside this one, said before any job starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antibody_sae.io import InputError, read_json

if TYPE_CHECKING:
    from antibody_sae.sections import ModelSection

IN_COMMON = ("model", "revision", "weights_sha256", "tokenizer_sha256", "hook", "model_dtype")
"""Of a layer's manifest: what two runs must share, so that an SAE of one reads the activations of the other."""


def manifest(folder: str | Path, layer: int) -> Path:
    """A layer's manifest in a run's folder."""
    return Path(folder) / "activations" / f"layer{layer}" / "manifest.json"


def namesakes(folder: str | Path, own: str | Path, layers: Iterable[int], saes: Iterable[str]) -> dict[str, str]:
    """{SAE of this run: its namesake in the run in `folder`}, each layer<L>/<name>-seed<S>, of those that have one.

    The namesake is of another seed where there is one: SAEs of one seed start from the same random directions, which
    alone makes their latents alike. Raises InputError where `folder` is no finished run, is this run (`own`), or has
    none of its layers or SAEs.
    """
    folder = Path(folder)
    if folder.resolve() == Path(own).resolve():
        raise InputError(f"transfer.from: {folder} is this run itself; name another run of the same model")
    if not (folder / "tables" / "summary.json").is_file():
        runs = sorted(str(path.parents[1]) for path in folder.parent.glob("*/tables/summary.json"))
        raise InputError(
            f"transfer.from: {folder} holds no finished run (tables/summary.json); "
            + (f"there are {', '.join(runs)}" if runs else "run it first")
        )
    if missing := [layer for layer in layers if not manifest(folder, layer).is_file()]:
        have = sorted(path.parent.name for path in folder.glob("activations/layer*/manifest.json"))
        raise InputError(
            f"transfer.from: {folder} has {', '.join(have)}, and activations.layers asks for "
            f"{', '.join(map(str, missing))} too; take the layers that both runs have"
        )
    found = {}
    for sae in saes:
        stem, _, seed = sae.rpartition("-seed")
        finished = (folder / "concepts").glob(f"{stem}-seed*/best.parquet")
        seeds = [int(path.parent.name.rpartition("-seed")[2]) for path in finished]
        if seeds:
            other = [each for each in sorted(seeds) if each != int(seed)]
            found[sae] = f"{stem}-seed{other[0] if other else seed}"
    if not found:
        have = sorted(str(path.parent.relative_to(folder / "saes")) for path in folder.glob("saes/*/*/config.json"))
        raise InputError(
            f"transfer.from: {folder} has none of this run's SAEs; it has {', '.join(have)}: give one of saes.train "
            "the same name"
        )
    return found


def check_names(folder: str | Path, layers: Iterable[int], model: ModelSection) -> None:
    """Raise InputError where the other run is of another model, as far as the section `model` of the configuration says
    it; `check` holds the weights themselves together."""
    for layer in layers:
        found = read_json(manifest(folder, layer))
        expected = {"model": model["name"], "model_dtype": {"auto": None}.get(model["dtype"], model["dtype"])}
        check(found, {key: value for key, value in expected.items() if value}, folder)


def check(found: Mapping[str, Any], expected: Mapping[str, Any], folder: str | Path) -> None:
    """Raise InputError where the other run's manifest differs from what this run's model says of itself."""
    for key in IN_COMMON:
        if key in expected and found.get(key) != expected[key]:
            raise InputError(
                f"transfer.from: {folder}, {key}: {found.get(key)!r} there, {expected[key]!r} here; an SAE reads "
                "activations of its own model, layer and number format only: run one of the two again with the other's "
                "section `model`"
            )
