"""Generation against the `iglm` package's own IgLM.generate: same weights, machine and number of threads.

Prints JSON: vs_iglm_package (sequences per second, ours as the pipeline generates them over theirs, in this
processor's own number format; where that is bfloat16, vs_iglm_package_float32 too), of_matmul (the time of the
weights' float32 products alone, 128 rows at a time for as many tokens as were written, over the time of writing them;
attention's products count as writing), the rates, and the instruction set. ATEN_CPU_CAPABILITY=avx2
ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 NUMBA_CPU_NAME=haswell measure a newer processor as an older one.
The package pins old versions: under the present ones its class loads, but its tokenizer gives every token the id of
[UNK], so it is handed one that reads the same vocabulary file by line.

    python tests/benchmarks/generation.py [--ours 256] [--theirs 8] [--rounds 3] [--threads 1]
"""

import argparse
import contextlib
import io
import json
import statistics
import time

import torch
from antibody_sae import hardware
from antibody_sae.models import model as models
from iglm.model.IgLM import VOCAB_FILE, IgLM
from transformers.pytorch_utils import Conv1D


class Vocabulary:
    """What IgLM asks of its tokenizer."""

    def __init__(self) -> None:
        with open(VOCAB_FILE, encoding="utf-8") as file:
            self.tokens = file.read().split()
        ids = {token: i for i, token in enumerate(self.tokens)}
        self.pad_token_id, self.unk_token_id, self.cls_token_id = ids["[PAD]"], ids["[UNK]"], ids["[CLS]"]
        self.sep_token_id, self.mask_token_id = ids["[SEP]"], ids["[MASK]"]
        self.convert_tokens_to_ids = lambda tokens: [ids[token] for token in tokens]

    def decode(self, ids) -> str:
        return " ".join(self.tokens[i] for i in ids)


def package_model() -> IgLM:
    """The package's own model, made to work."""
    package = IgLM("IgLM")
    package.tokenizer = Vocabulary()
    package.model.generation_config.eos_token_id = None
    return package


def theirs(package: IgLM, n: int) -> float:
    """Sequences per second of the package."""
    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        sequences = package.generate("[HEAVY]", "[HUMAN]", num_to_generate=n)
    seconds = time.perf_counter() - start
    assert all(len(sequence) > 60 for sequence in sequences), sequences[:2]
    return n / seconds


def ours(model: models.AntibodyModel, n: int, seed: int) -> float:
    """Sequences per second of the pipeline's own call."""
    start = time.perf_counter()
    generated = model.generate(n, seed=seed)
    seconds = time.perf_counter() - start
    assert sum(one.ended for one in generated) > 0.97 * n
    return n / seconds


@torch.inference_mode()
def products(model: models.AntibodyModel, steps: int, rows: int = 128) -> float:
    """Processor seconds a token of the products with the blocks' weights alone, in the model's own rows."""
    weights = [(m.weight, m.bias) for block in model.blocks for m in block.modules() if isinstance(m, Conv1D)]
    inputs = {len(weight): torch.randn(rows, len(weight)) for weight, _ in weights}
    start = time.process_time()
    for _ in range(steps):
        for weight, bias in weights:
            torch.addmm(bias, inputs[len(weight)], weight)
    return (time.process_time() - start) / steps / rows


def of_matmul(model: models.AntibodyModel, n: int, seed: int) -> float:
    """Share of the processor time of writing n sequences that their products take alone, measured before and after."""
    before = products(model, 16)
    start = time.process_time()
    written = model.generate(n, seed=seed, complete=True)
    seconds = time.process_time() - start
    after = products(model, 16)
    read = sum(len(one.text) + len(model.prefix("H")) for one in written)
    return (before + after) / 2 * read / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=int, default=256, help="sequences a round")
    parser.add_argument("--theirs", type=int, default=8, help="sequences a round")
    parser.add_argument("--rounds", type=int, default=3, help="in turns, so that a busy machine slows both")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    package = package_model()
    fast = hardware.fast_dtype()
    own = {d: models.load({"name": "iglm", "dtype": d, "device": "cpu"}) for d in dict.fromkeys((fast, "float32"))}
    theirs(package, 2)  # the first calls are slower
    for model in own.values():
        ours(model, 64, 99)
    rates: dict[str, list[float]] = {"package": [], **{dtype: [] for dtype in own}}
    shares = []
    for round_ in range(args.rounds):
        rates["package"].append(theirs(package, args.theirs))
        for dtype, model in own.items():
            rates[dtype].append(ours(model, args.ours, round_))
        shares.append(of_matmul(own["float32"], args.ours, round_))
    median = {key: statistics.median(values) for key, values in rates.items()}
    print(json.dumps({
        "vs_iglm_package": round(median[fast] / median["package"], 1),
        "vs_iglm_package_float32": round(median["float32"] / median["package"], 1),
        "sequences_per_second": {key: round(median[key], 2) for key in own},
        "iglm_package_sequences_per_second": round(median["package"], 3),
        "of_matmul": round(statistics.median(shares), 3),
        "instruction_set": hardware.instruction_set(),
        "dtype": fast,
        "rounds": args.rounds,
        "threads": args.threads,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
