"""What the simulation draws: every part of it is a field here.

A share of 0 leaves its kind or source out; photometric and nuisance of 0, foreground and cleanup of False switch their parts off.
opacity, coverage, scale and feather are above 0: every defect has them.
"""

import math
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class KindShares:
    """How often each kind of defect is drawn, relative to the others; 0 leaves a kind out."""

    blend: float = 2.0  # Perlin blobs filled with foreign content
    patch: float = 2.0  # a piece of the same picture moved, turned or mirrored, or of another picture
    scar: float = 0.75  # the same, long and thin
    curve: float = 1.5  # scratches and fibres: thin bent lines, bright or dark
    warp: float = 1.25  # a local displacement that leaves the colours alone
    stain: float = 3.0  # a shift of brightness or colour
    blur: float = 0.75  # smeared or over-sharp texture
    missing: float = 1.0  # a part replaced by the colour of its surroundings or of the background
    hole: float = 1.25  # small dark or bright spots
    relief: float = 1.0  # a dent or a bump: bright on one side, in a drawn direction, dark on the other, a little warped


@dataclass(frozen=True)
class SourceShares:
    """Where foreign content comes from, relative shares; textures count only if a folder of them was given."""

    picture: float = 1.0  # another training picture
    texture: float = 1.0  # a picture of the texture folder
    shuffle: float = 0.5  # the picture itself, its 8 x 8 grid shuffled


@dataclass(frozen=True)
class SimulationConfig:
    """Simulated anomalies. Lengths are in pixels of a 256-pixel picture and grow with the picture.

    opacity: range of the blend's opacity. coverage: range of a blob's or patch's area as a share of the picture (of the
    foreground for blobs), drawn log-uniformly. scale: factor on the size of every defect. feather: range of the soft
    edge's width. photometric: strength of brightness and colour changes of pasted content, 0 is off. foreground:
    defects only on the object, where one is found. cleanup: label what visibly changed, without specks, and restore
    the rest; off: the label is the drawn outline. nuisance: strength of the harmless noise of n(x), 0 is off.
    Raises ValueError for a range that is empty or out of bounds, and for shares that are negative or all zero.
    """

    kinds: KindShares = field(default_factory=KindShares)
    sources: SourceShares = field(default_factory=SourceShares)
    opacity: tuple[float, float] = (0.15, 1.0)
    coverage: tuple[float, float] = (0.004, 0.12)
    scale: float = 1.0
    feather: tuple[float, float] = (0.5, 5.0)
    photometric: float = 1.0
    foreground: bool = True
    cleanup: bool = True
    nuisance: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (("opacity", 0.0, 1.0), ("coverage", 0.0, 0.5), ("feather", 0.0, 64.0)):
            a, b = getattr(self, name)
            if not low < a <= b <= high:
                raise ValueError(
                    f"simulation.{name} must be two numbers with {low} < low <= high <= {high}, got {(a, b)}"
                )
        for name in ("scale", "photometric", "nuisance"):
            if not 0 <= getattr(self, name) <= 4 or (name == "scale" and self.scale == 0):
                raise ValueError(f"simulation.{name} must lie in 0..4, got {getattr(self, name)}")
        for name in ("kinds", "sources"):
            shares = {f.name: getattr(getattr(self, name), f.name) for f in fields(getattr(self, name))}
            if not (all(0 <= share < math.inf for share in shares.values()) and sum(shares.values()) > 0):
                raise ValueError(f"simulation.{name} must be shares >= 0, at least one above 0, got {shares}")
