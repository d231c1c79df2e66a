"""What kinds of probe refuse, in one line."""

import math

import pytest

from probes.methods.mass_mean import MassMean
from probes.methods.mlp import Mlp
from probes.methods.pca import Pca
from probes.methods.sparse import Sparse
from tests.unit.probe_problems import planted
from workbench.errors import ProbeError


def test_what_is_refused() -> None:
    x, y = planted(30, 0)
    cases = [
        (MassMean(0.0), "shrinkage = 0.0; it must be above 0 and at most 1"),
        (MassMean(1.5), "shrinkage = 1.5"),
        (MassMean().set_params(prior="flat"), "prior = 'flat'; it is 'uniform' or 'empirical'"),
        (Pca(0), "n_components = 0; it must be a whole number from 1 to the width, 20"),
        (Pca(21), "n_components = 21"),
        (Pca(2.5), "n_components = 2.5"),
        (Pca(math.inf), "n_components = inf"),
        (Pca(2, alpha=0.0), "pca alpha = 0.0; it must be above 0"),
        (Sparse(21), "sparse k = 21; it must be a whole number from 1 to the width, 20"),
        (Sparse(2, alpha=-1.0), "sparse alpha = -1.0"),
        (
            Sparse(2).set_params(coordinates="best"),
            "coordinates = 'best'; it is 'ranked' or 'random'",
        ),
        (Mlp(-0.1), "weight_decay = -0.1; it must be 0 or more"),
        (Mlp(math.inf), "weight_decay = inf"),
        (Mlp(hidden=0), "mlp hidden = 0; it must be above 0"),
        (Mlp(learning_rate=0.0), "mlp learning_rate = 0.0"),
    ]
    for probe, said in cases:
        with pytest.raises(ProbeError) as caught:
            probe.fit(x, y)
        assert said in str(caught.value) and "\n" not in str(caught.value)
