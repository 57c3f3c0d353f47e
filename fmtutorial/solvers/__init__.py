"""Solvers for dx/dt = v(x, t): steps, grids, adaptive steps, and DPM-Solver. Chapter 5."""

from fmtutorial.solvers.adaptive import solve_adaptive
from fmtutorial.solvers.exponential import dpm_solver
from fmtutorial.solvers.fixed import solve
from fmtutorial.solvers.grids import (
    check_grid,
    clock,
    half_log_snr,
    level_grid,
    log_snr_grid,
    time_of,
)
from fmtutorial.solvers.steps import (
    CountedField,
    ScalarTimeField,
    Solution,
    Step,
    euler,
    heun,
    midpoint,
    rk4,
)

__all__ = [
    "CountedField",
    "ScalarTimeField",
    "Solution",
    "Step",
    "check_grid",
    "clock",
    "dpm_solver",
    "euler",
    "half_log_snr",
    "heun",
    "level_grid",
    "log_snr_grid",
    "midpoint",
    "rk4",
    "solve",
    "solve_adaptive",
    "time_of",
]
