"""Curved spaces: torus, sphere, rotations; flow matching along geodesics. Chapter 14."""

from fmtutorial.manifolds.directional import VonMisesFisher, WrappedField
from fmtutorial.manifolds.geodesics import (
    GeodesicField,
    divergence,
    geodesic,
    geodesic_euler,
    geodesic_matching_loss,
    log_likelihood,
    staying,
    tangent_part,
)
from fmtutorial.manifolds.rotations import Rotations
from fmtutorial.manifolds.spaces import Manifold, Sphere, Torus

__all__ = [
    "GeodesicField",
    "Manifold",
    "Rotations",
    "Sphere",
    "Torus",
    "VonMisesFisher",
    "WrappedField",
    "divergence",
    "geodesic",
    "geodesic_euler",
    "geodesic_matching_loss",
    "log_likelihood",
    "staying",
    "tangent_part",
]
