"""What a run cost, by stage."""

import pytest
from antibody_sae.report import costs


def test_costs_are_summed_by_stage(run):
    spent = costs.costs(run).set_index("stage")
    assert spent["minutes"].to_dict() == pytest.approx(
        {"sequences": 1.5, "numbering": 1 / 3, "SAEs": 1.0, "steering": 2.0}
    )
    assert spent["jobs"].tolist() == [1, 1, 1, 1]
