"""Antibody concepts, and which latents stand for them."""
