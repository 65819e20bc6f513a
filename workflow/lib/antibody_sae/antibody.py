"""What every stage means by a residue, a region, a chain's side and a split."""

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
REGIONS = ("FR1", "CDR1", "FR2", "CDR2", "FR3", "CDR3", "FR4")
SIDED_REGIONS = tuple(f"{side}-{region}" for side in "HL" for region in REGIONS)
"""Regions of the heavy, then of the light chain."""
SIDES = {"heavy": "H", "light": "KL"}
"""A chain's side -> the chain types that it can be: H, K (kappa), L (lambda)."""
LETTERS = {"H": "heavy", "L": "light"}
"""A letter of `chains` (H, L or HL) -> the side it stands for."""
SPLITS = ("train", "validation", "test")
