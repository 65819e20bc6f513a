"""Fixtures that the tests of report share."""

import pytest
import synthetic_run
from antibody_sae.report import summary as tables_summary


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return synthetic_run.make(tmp_path_factory.mktemp("run"), synthetic_run.configuration())


@pytest.fixture(scope="module")
def summary(run):
    return tables_summary.summary(run)
