"""Sparse autoencoders: one prefix-weighted TopK SAE, its training and its evaluation."""

from antibody_sae.sae.model import SAE, Codes

__all__ = ["SAE", "Codes"]
