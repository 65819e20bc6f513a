"""What the tests of designs share."""

from __future__ import annotations

BINS = {"cdr3_length": [14], "cdr3_charge": [0], "cdr3_hydropathy": [0], "v_identity": [0.9]}
BATCH = 32
CONCEPTS = {"bins": BINS, "metadata": {}, "position_pairs": 0}
TRASTUZUMAB = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKG"
    "RFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)
