"""All exercises by name, and the sheets that they are on."""

from fmtutorial.coursework import (
    bridges,
    diffusion,
    digits,
    discrete,
    editing,
    few_steps,
    flows,
    manifolds,
    matching,
    paths,
    reflow,
    solvers,
    steering,
    transport,
)
from fmtutorial.coursework.exercises import Exercise

SHEETS = {
    "01-flows": flows.EXERCISES,
    "02-probability-paths": paths.EXERCISES,
    "03-flow-matching": matching.EXERCISES,
    "04-optimal-transport": transport.EXERCISES,
    "05-solvers": solvers.EXERCISES,
    "06-reflow": reflow.EXERCISES,
    "07-diffusion": diffusion.EXERCISES,
    "08-mnist": digits.EXERCISES,
    "10-few-steps": few_steps.EXERCISES,
    "11-steering": (*steering.EXERCISES, *editing.EXERCISES),
    "12-discrete": discrete.EXERCISES,
    "13-bridges": bridges.EXERCISES,
    "14-manifolds": manifolds.EXERCISES,
}
"""By the name of the notebook, in the order of the chapters."""

EXERCISES = {exercise.name: exercise for sheet in SHEETS.values() for exercise in sheet}


def exercise_called(name: str) -> Exercise:
    """Return an exercise.

    Raises:
        ValueError: there is none with this name.
    """
    if name not in EXERCISES:
        known = ", ".join(EXERCISES)
        raise ValueError(f'there is no exercise "{name}"; there are {known}')
    return EXERCISES[name]
