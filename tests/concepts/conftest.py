"""The planted world (concept_world.py), and what is found in it."""

import concept_world
import pytest


@pytest.fixture(scope="session")
def world():
    """(labels, codes [residues, latents])."""
    return concept_world.make()


@pytest.fixture(scope="session")
def found(world):
    """What `associate` finds in it."""
    return concept_world.run(*world)
