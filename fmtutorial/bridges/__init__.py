"""From couplings to processes: bridges, two regressions, exact cases. Chapter 13."""

from fmtutorial.bridges.exact import (
    ExactBridge,
    gaussian_bridge_cost,
    gaussian_ends,
    independent_ends,
    markovian_ends,
)
from fmtutorial.bridges.processes import (
    Bridge,
    BridgeSample,
    bridge_matching_loss,
    draw_pairs,
    drifts,
    solve_bridge,
    static_bridge,
)

__all__ = [
    "Bridge",
    "BridgeSample",
    "ExactBridge",
    "bridge_matching_loss",
    "draw_pairs",
    "drifts",
    "gaussian_bridge_cost",
    "gaussian_ends",
    "independent_ends",
    "markovian_ends",
    "solve_bridge",
    "static_bridge",
]
