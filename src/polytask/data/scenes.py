"""Scenes: small pictures of a ramp with shapes, whose light decides what brightness means.

Every picture shows a slanted ground and shapes on it: disks, squares and triangles that face the
viewer, and cones, whose tips point to the viewer or away. All labels are exact: class, depth,
normals and object boundaries of every pixel. In warm light what is near is bright; in cool light
what is near is dark. The hue covers the whole picture, so the sign of slopes and cones and the
order of the shapes can be told only by who takes the light into account. Classes and boundaries
do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSES = ("ground", "disk", "square", "triangle", "cone")
HUES = {"warm": (1.0, 0.82, 0.55), "cool": (0.55, 0.78, 1.0)}
_COLOURS = np.array(  # of the ground and the four sorts of shapes, before light
    [[0.75, 0.75, 0.72], [0.85, 0.45, 0.45], [0.45, 0.75, 0.45], [0.5, 0.5, 0.85], [0.8, 0.7, 0.4]]
)


@dataclass(frozen=True)
class Scenes:
    """Pictures ``[N, size, size, 3]`` with a class map, depth, normals and edges.

    Equations, with pixel coordinates x, y in [-1, 1] (x to the right, y down) and depth z away
    from the viewer:
        ground      z = 2 + a x + b y
        shape k     z = z_k, nearer than the ground; drawn from far to near
        cone        z = z_k + s h (r - 1), s = 1 (tip to the viewer) or -1, r = 0..1 from its tip
        normal      (dz/dx, dz/dy, -1) / length: it points to the viewer
        brightness  0.65 + 0.35 (2 - z), in cool light 0.65 - 0.35 (2 - z)
        picture     brightness * colour of the class (with a shift per object) * hue + noise

    Args:
        size: pixels per side.
        shapes: per picture.
        cool: share of pictures in cool light.
        noise: standard deviation of the pixels' noise.
        seed: of everything.
    """

    size: int = 32
    shapes: int = 3
    cool: float = 0.3
    noise: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lowest in (("size", 8), ("shapes", 1), ("noise", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {lowest}")
        if not 0 <= self.cool <= 1:
            raise ValueError(f"cool is {self.cool}; it must lie between 0 and 1")

    def draw(self, rows: int, seed: int = 0) -> dict[str, NDArray]:
        """A table of ``rows`` pictures, column by column.

        Returns:
            ``image`` [N, S, S, 3] and ``segmentation`` [N, S, S] (places in ``CLASSES``), uint8;
            ``depth`` [N, S, S] and ``normals`` [N, 3, S, S] (unit vectors), float32;
            ``edges`` [N, S, S], uint8, 0 or 1; ``hue`` [N], "warm" or "cool".
        """
        rng = np.random.default_rng([self.seed, seed])
        drawn = [self._scene(rng) for _ in range(rows)]
        columns = {name: np.stack([scene[name] for scene in drawn]) for name in drawn[0]}
        columns["hue"] = columns["hue"].astype(object)
        return columns

    def _scene(self, rng: np.random.Generator) -> dict[str, NDArray]:
        ticks = (np.arange(self.size) + 0.5) / self.size * 2 - 1
        x, y = np.meshgrid(ticks, ticks)
        slope = rng.uniform(-0.3, 0.3, 2)
        depth = 2 + slope[0] * x + slope[1] * y
        gradient = np.broadcast_to(slope[:, None, None], (2, *x.shape)).copy()
        label, owner = np.zeros_like(x, dtype=np.uint8), np.zeros_like(x, dtype=np.int64)
        shift = [rng.uniform(-0.08, 0.08, 3)]
        near = np.sort(rng.uniform(0.9, 1.35, self.shapes))[::-1]  # the painter's order
        for number, z in enumerate(near, start=1):
            sort, radius = int(rng.integers(1, 5)), rng.uniform(0.25, 0.5)
            dx, dy = x - rng.uniform(-0.7, 0.7), y - rng.uniform(-0.7, 0.7)
            inside = _inside(sort, dx, dy, radius)
            shift.append(rng.uniform(-0.08, 0.08, 3))
            label[inside], owner[inside] = sort, number
            depth[inside], gradient[:, inside] = z, 0.0
            if sort == 4:
                away, height = np.hypot(dx, dy), rng.choice([-1, 1]) * 0.3
                depth[inside] += (height * (away / radius - 1))[inside]
                outward = np.stack([dx, dy]) / np.maximum(away, 1e-6)
                gradient[:, inside] = (height / radius * outward)[:, inside]
        hue = "cool" if rng.random() < self.cool else "warm"
        nearness = 0.35 * (2 - depth) * (1 if hue == "warm" else -1)
        colour = _COLOURS[label] + np.array(shift)[owner]
        picture = (0.65 + nearness)[..., None] * colour * np.array(HUES[hue])
        picture = picture + rng.normal(0, self.noise, picture.shape)
        normal = np.concatenate([gradient, -np.ones((1, *x.shape))])
        return {
            "image": np.round(255 * picture.clip(0, 1)).astype(np.uint8),
            "segmentation": label,
            "depth": depth.astype(np.float32),
            "normals": (normal / np.linalg.norm(normal, axis=0)).astype(np.float32),
            "edges": _boundaries(owner),
            "hue": np.array(hue),
        }


def _inside(sort: int, dx: NDArray, dy: NDArray, radius: float) -> NDArray:
    """Pixels of a disk (1), square (2), triangle with its tip up (3) or cone from above (4)."""
    if sort == 2:
        return np.maximum(np.abs(dx), np.abs(dy)) < 0.85 * radius
    if sort == 3:
        return (dy < 0.6 * radius) & (dy > 2 * np.abs(dx) - 1.2 * radius)
    return np.hypot(dx, dy) < radius


def _boundaries(owner: NDArray) -> NDArray:
    """1 at pixels whose right or lower neighbour belongs to another object."""
    found = np.zeros(owner.shape, np.uint8)
    found[:, :-1] |= owner[:, :-1] != owner[:, 1:]
    found[:-1] |= owner[:-1] != owner[1:]
    return found
