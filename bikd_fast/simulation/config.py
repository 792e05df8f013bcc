"""What the simulation draws: every part of it is a field here.

A share of 0 leaves its kind or source out; photometric and nuisance of 0, foreground and cleanup of False switch their parts off.
opacity, coverage, scale and feather are above 0: every defect has them.
"""

import math
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class KindShares:
    """How often each kind of defect is drawn, relative to the others; 0 leaves a kind out.

    Args:
        blend: Perlin blobs filled with foreign content.
        patch: a piece of the same picture moved, turned or mirrored, or of another picture.
        scar: such a piece, long and thin.
        curve: scratches and fibres: thin bent lines, bright or dark.
        warp: a local displacement that leaves the colours alone.
        stain: a shift of brightness or colour.
        blur: smeared or over-sharp texture.
        missing: a part replaced by the colour of its surroundings or of the background.
        hole: small dark or bright spots.
        relief: a dent or a bump: bright on one side, in a drawn direction, dark on the other, a little warped.
    """

    blend: float = 2.0
    patch: float = 2.0
    scar: float = 0.75
    curve: float = 1.5
    warp: float = 1.25
    stain: float = 3.0
    blur: float = 0.75
    missing: float = 1.0
    hole: float = 1.25
    relief: float = 1.0


@dataclass(frozen=True)
class SourceShares:
    """Where foreign content comes from, relative shares; textures count only if a folder of them was given.

    Args:
        picture: another training picture.
        texture: a picture of the texture folder (data.textures).
        shuffle: the picture itself, its 8 x 8 grid shuffled.
    """

    picture: float = 1.0
    texture: float = 1.0
    shuffle: float = 0.5


@dataclass(frozen=True)
class SimulationConfig:
    """Simulated anomalies. Lengths are in pixels of a 256-pixel picture and grow with the picture.

    Args:
        opacity: range of the blend's opacity, as [low, high].
        coverage: range of a blob's or patch's area as a share of the picture (of the foreground for blobs), drawn log-uniformly.
        scale: factor on the size of every defect.
        feather: range of the soft edge's width.
        photometric: strength of brightness and colour changes of pasted content, 0 is off.
        foreground: defects only on the object, where one is found.
        cleanup: label what visibly changed, without specks, and restore the rest; off: the label is the drawn outline.
        nuisance: strength of the harmless noise of n(x), 0 is off.

    Raises:
        ValueError: a range that is empty or out of bounds, or shares that are negative or all zero.
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
