"""Numbering against ANARCI's own program: the same chains, species and number of processes.

Prints JSON: vs_anarci (chains per second, ours over theirs), different (chains whose numbering, chain type or
germlines differ and no known fault of ANARCI explains it), corrections (those that one explains, by fault), chains, and
what they were; and `all_species`, the same figures for other chains, of all eight species and all of these allowed,
where ANARCI is at fault. Needs `hmmscan` (Debian: hmmer). Real human chains are taken from ../shared/data where they
are there; the rest are recombined from ANARCI's germlines and mutated.

    python tests/benchmarks/numbering.py [--chains 6000] [--species human,mouse] [--scheme imgt] [--cores 2] [--all 800]
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from anarci import run_anarci
from anarci.germlines import all_germlines
from antibody_sae.numbering import anarci

ROOT = Path(__file__).parents[2]
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
REAL = ROOT.parent / "shared" / "data" / "oas_jaffe2022_1500.csv"


def recombined(species: str, kind: str, rng: random.Random) -> str:
    """V and J germline around a random CDR3, up to 15 % mutated; now and then truncated, tailed or with a long CDR3."""
    v = rng.choice(list(all_germlines["V"][kind][species].values())).rstrip("-").replace("-", "")
    j_alleles = all_germlines["J"][kind].get(species) or all_germlines["J"][kind]["mouse"]  # there is no rat heavy J
    j = rng.choice(list(j_alleles.values())).replace("-", "")
    longest = rng.choice([8, 8, 8, 20, 45])
    middle = "".join(rng.choices(RESIDUES, k=rng.randint(0, longest) if kind == "H" else rng.randint(0, 3)))
    rate = rng.choice([0.0, 0.02, 0.05, 0.15])
    chain = "".join(rng.choice(RESIDUES) if rng.random() < rate else residue for residue in v + middle + j)
    shape = rng.random()
    if shape < 0.05:
        chain = chain[rng.randint(1, 25) :]
    elif shape < 0.10:
        chain = chain[: -rng.randint(1, 12)]
    elif shape < 0.15:
        chain = "MKHLWFFLLLVAAPRWVLS" + chain + "ASTKGPSVFPLAPSSKSTSGGTAALGCLVKDYFPEPVTVSW"
    return chain


def chains(n: int, seed: int = 0) -> list[str]:
    """Real human pairs first, then recombined human and mouse H, K and L, all different."""
    found: dict[str, None] = {}
    if REAL.is_file():
        with open(REAL, newline="") as file:
            for row in csv.DictReader(file):
                found.update({row["vh"]: None, row["vl"]: None})
    found = dict.fromkeys(list(found)[: n // 2])
    rng = random.Random(seed)
    kinds = [(s, k) for s in ("mouse", "human") for k in "HKL"]
    while len(found) < n:
        found[recombined(*kinds[len(found) % len(kinds)], rng)] = None
    return list(found)


def chains_of_all(n: int, seed: int = 0) -> list[str]:
    """Recombined chains of all species in turn; one in ten lost its last residue to a His tag."""
    rng = random.Random(seed)
    kinds = [(s, k) for k in "HKL" for s in anarci.SPECIES if all_germlines["V"][k].get(s)]
    found: dict[str, None] = {}
    while len(found) < n:
        chain = recombined(*kinds[len(found) % len(kinds)], rng)
        found[chain[:-1] + "HHHHHH" if rng.random() < 0.1 else chain] = None
    return list(found)


def fault(chain: str, mine: tuple | None, their: tuple | None, profile: str) -> str:
    """Why ANARCI's result (numbered by `profile`) differs from ours: its known fault, or "" where none explains it."""
    if profile in ("rhesus_H", "rhesus_K"):
        return "numbered by a shifted profile"
    if mine is None or their is None:
        return ""
    at = [{n: chain[r[1] + i] for i, (n, code) in enumerate(r[3]) if not code} for r in (mine, their)]
    kept = [(one.get(23), one.get(104)) == ("C", "C") for one in at]
    if kept == [True, False]:
        return "cysteines not at 23 and 104, where another profile keeps them"
    if mine[:2] == their[:2] and chain[mine[2] : their[2]].endswith("H") and "HHHHH" in chain[mine[2] :]:
        return "residues of a His tag in the domain"
    if mine[:4] == their[:4] and mine[5] and not their[5]:
        return "no germlines because another allowed species has none of this chain type"
    if mine[:4] == their[:4] and mine[6] >= their[6] and {"rhesus", "rat"} & {mine[4], their[4]}:
        return "germlines shifted"
    return ""


def theirs(numbered: list, details: list) -> list:
    """ANARCI's results in comparable form."""
    results = []
    for domains, detail in zip(numbered, details, strict=True):
        if domains is None or len(domains) != 1:
            results.append(None)
            continue
        (positions, start, end), genes = domains[0], detail[0].get("germlines", {})
        if not positions:  # a loop is longer than the scheme allows
            results.append(None)
            continue
        v, j = genes.get("v_gene", [None, None]), genes.get("j_gene", [None, None])
        results.append((
            detail[0]["chain_type"], start, end + 1, [(n, code.strip()) for (n, code), r in positions if r != "-"],
            v[0] and v[0][0], v[0] and v[0][1], v[1], j[0] and j[0][1], j[1],
        ))  # fmt: skip
    return results


def ours(numbered: list[anarci.Numbered]) -> list:
    """Our results in comparable form."""
    return [
        None
        if n.numbers is None
        else (
            n.chain,
            n.start,
            n.end,
            [(int(a), anarci.INSERTIONS[b]) for a, b in zip(n.numbers.number, n.numbers.number_insertion, strict=True)],
            n.germline.species,
            n.germline.v_allele,
            None if n.germline.v_allele is None else n.germline.v_identity,
            n.germline.j_allele,
            None if n.germline.j_allele is None else n.germline.j_identity,
        )
        for n in numbered
    ]


def compare(sequences: list[str], species: list[str], scheme: str, cores: int) -> dict:
    """Both programs on the same chains: seconds of each, differences, kinds of chains."""
    size = -(-len(sequences) // cores)
    start = time.perf_counter()
    with multiprocessing.Pool(cores) as pool:
        jobs = [sequences[i : i + size] for i in range(0, len(sequences), size)]
        work = partial(anarci.number, species=species, scheme=scheme)
        mine = ours([one for part in pool.map(work, jobs) for one in part])
    our_seconds = time.perf_counter() - start

    start = time.perf_counter()
    named = [(str(i), sequence) for i, sequence in enumerate(sequences)]
    _, numbered, details, _ = run_anarci(
        named, ncpu=cores, scheme=scheme, allowed_species=species, assign_germline=True
    )
    their_seconds = time.perf_counter() - start

    profiles = ["" if not d else f"{d[0]['species']}_{d[0]['chain_type']}" for d in details]
    corrections: Counter[str] = Counter()
    different = 0
    for sequence, a, b, profile in zip(sequences, mine, theirs(numbered, details), profiles, strict=True):
        if a != b:
            why = fault(sequence, a, b, profile)
            corrections[why] += bool(why)
            different += not why
            if not why and different <= 5:
                print(f"{sequence}\n  ours   {a}\n  theirs {b}", file=sys.stderr)
    kinds = Counter(f"{a[4]}_{a[0]}" if a else "not one domain" for a in mine)
    return {
        "vs_anarci": round(their_seconds / our_seconds, 2),
        "different": different,
        "corrections": dict(+corrections),
        "chains": len(sequences),
        "kinds": dict(sorted(kinds.items())),
        "chains_per_second": round(len(sequences) / our_seconds, 1),
        "anarci_chains_per_second": round(len(sequences) / their_seconds, 1),
        "species": species,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=6000)
    parser.add_argument("--species", default="human,mouse")
    parser.add_argument("--scheme", default="imgt", choices=anarci.SCHEMES)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--all", type=int, default=800, help="chains of all species")
    args = parser.parse_args()
    found = compare(chains(args.chains), args.species.split(","), args.scheme, args.cores)
    found |= {"cores": args.cores, "scheme": args.scheme}
    found["all_species"] = compare(chains_of_all(args.all), list(anarci.SPECIES), args.scheme, args.cores)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
