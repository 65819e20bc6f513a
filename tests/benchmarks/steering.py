"""What steering costs: steered over unsteered generation of the same batch, in turns, on the same machine.

Prints JSON: steered_over_unsteered (additions, another one in every row, as in the evaluation), clamp_over_unsteered
(delta-clamps, each reading the SAE's code at every step), the rates, and numbered_over_written (sequences numbered over
sequences written in an evaluation: each distinct one once). Both ratios hold the likelihood, which unsteered writing
gives by the way and steered writing reads on from the block of its push.

`trained_vector`: what one costs: passes over its sequences through the whole model (writing them, reading the
activations, the derivative, the likelihood), and seconds.

    python tests/benchmarks/steering.py [--rows 128] [--rounds 5] [--threads 1]
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence

import torch
from antibody_sae import hardware
from antibody_sae.interventions import Edit, Intervention, Where, clamp
from antibody_sae.models import model as models
from antibody_sae.numbering import anarci, tables
from antibody_sae.sae.model import SAE
from antibody_sae.steering import outcomes, trained

WRITING = {"chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": "", "complete": True}


def random_sae(d_model: int, latents: int = 2048, k: int = 32) -> SAE:
    """An SAE of the default shape; its cost does not depend on what it learnt."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(latents, d_model, generator=generator), dim=1)
    return SAE(
        directions, torch.zeros(latents), directions, torch.zeros(d_model), 0.45, k, torch.full((latents,), 0.2),
        torch.full((latents,), 0.01), {"architecture": "topk"},
    )  # fmt: skip


def seconds(model: models.AntibodyModel, edit: Edit | None, rows: int) -> float:
    """Time of 60 residues in every row: an edit changes when a sequence ends, and that is not its cost."""
    start = time.perf_counter()
    model.generate(rows, seed=1, max_residues=60, layer=2, edit=edit, batch_size=rows)
    return time.perf_counter() - start


def count_numbered(model: models.AntibodyModel) -> float:
    """Chains that the evaluation hands to numbering over rows that it was given, half of which repeat."""
    texts = [g.text for g in model.generate(24, seed=3)] * 2
    seen: list[str] = []
    number = tables.number

    def counting(chains: Sequence[str], *rest: object) -> list[anarci.Numbered]:
        seen.extend(chains)
        return number(chains, *rest)  # type: ignore[arg-type]

    tables.number = counting  # type: ignore[assignment]
    try:
        outcomes.number_texts(texts, WRITING, {"species": ["human"], "scheme": "imgt"})
    finally:
        tables.number = number
    assert len(seen) == len(set(texts))
    return len(seen) / len(texts)


def trained_cost(model: models.AntibodyModel, n: int = 64, rounds: int = 2) -> dict[str, float]:
    """Of one target, after what all targets share; a round is n sequences."""
    settings = {
        "numbering": {"species": ["human"], "scheme": "imgt"},
        "concepts": {
            "bins": {"cdr3_length": [22], "cdr3_charge": [1], "cdr3_hydropathy": [0], "v_identity": [0.9]},
            "metadata": {},
            "position_pairs": 10,
        },
    }
    targets = ["cdr3-charge=H:>=1"]
    judge = trained.catalogue_judge(targets, WRITING, settings)
    bench = trained.Workbench(model, 2, Where(), WRITING, targets, judge)
    start = time.perf_counter()
    base = bench.base(2 * n, 1)
    shared = time.perf_counter() - start
    read = 0

    def count(module: object, inputs: object, output: object) -> None:
        nonlocal read
        hidden = output[0] if isinstance(output, tuple) else output
        read += hidden.shape[0] * hidden.shape[1]

    handles = [block.register_forward_hook(count) for block in model.blocks]
    start = time.perf_counter()
    made = bench.train(base, {0: base.derivative[0]}, 1.0, n, 1, rounds=rounds)[0]
    took = time.perf_counter() - start
    for handle in handles:
        handle.remove()
    tokens = sum(len(p.tokens) for p in base.passages) / len(base.passages) * n * len(made.history)
    return {
        "passes_a_sequence": round(read / model.n_layers / tokens, 2),
        "seconds_a_sequence": round(took / n / len(made.history), 3),
        "shared_seconds_a_sequence": round(shared / (2 * n), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = models.load({"name": "iglm"})
    sae = random_sae(model.d_model)
    # short vectors: sequences stay as they are, so that all three write about the same
    added = [Intervention(vector=1e-3 * sae.directions[row]) for row in range(args.rows)]
    clamped = [clamp(sae, {row: 1e-3}) for row in range(args.rows)]
    edits = {"unsteered": None, "steered": Edit(model, added), "clamp": Edit(model, clamped)}
    times: dict[str, list[float]] = {name: [] for name in edits}
    seconds(model, edits["clamp"], 8)  # compile
    for _ in range(args.rounds):
        for name, edit in edits.items():
            times[name].append(seconds(model, edit, args.rows))
    ratios = {
        name: [a / b for a, b in zip(times[name], times["unsteered"], strict=True)] for name in ("steered", "clamp")
    }
    print(
        json.dumps(
            {
                "steered_over_unsteered": round(statistics.median(ratios["steered"]), 3),
                "clamp_over_unsteered": round(statistics.median(ratios["clamp"]), 3),
                "seconds": {name: round(statistics.median(t), 2) for name, t in times.items()},
                "numbered_over_written": count_numbered(model),
                "trained_vector": trained_cost(model),
                "instruction_set": hardware.instruction_set(),
                "dtype": model.dtype_name,
                "rows": args.rows,
                "threads": args.threads,
            }
        )
    )


if __name__ == "__main__":
    main()
