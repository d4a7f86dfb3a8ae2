"""Which pixels along one axis the units of a map read: integer arithmetic, exact also for holes between the pixels."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple


class Window(NamedTuple):
    """Unit i of a map reads the units ``(stride * i + low + step * t) / spread`` of the map before, t < taps.

    Those that are no whole number do not exist: there is a zero, as in transposed convolutions.
    """

    stride: int
    low: int
    taps: int = 1
    step: int = 1
    spread: int = 1

    def units(self, unit: int) -> list[int]:
        """What a unit reads of the map before."""
        places = (self.stride * unit + self.low + self.step * tap for tap in range(self.taps))
        return [place // self.spread for place in places if place % self.spread == 0]


class Reach(NamedTuple):
    """Pixels: bit b of ``pixels`` stands for the pixel ``low + b``."""

    low: int
    pixels: int

    @property
    def high(self) -> int:
        """The last pixel."""
        return self.low + self.pixels.bit_length() - 1


@dataclasses.dataclass(frozen=True)
class Span:
    """Unit i along an axis of a map reads the pixels of ``phases[i % n]``, shifted by ``jump * (i // n)``.

    There is one phase but after transposed convolutions, whose units take turns. None is a unit that reads nothing.
    """

    jump: int
    phases: tuple[Reach | None, ...]

    @property
    def stride(self) -> int | Fraction:
        """Pixels between neighbouring units."""
        stride = Fraction(self.jump, len(self.phases))
        return int(stride) if stride == int(stride) else stride

    @property
    def extent(self) -> int:
        """Pixels from the first to the last of the unit that reads most."""
        return max((reach.high - reach.low + 1 for reach in self.phases if reach), default=0)

    @property
    def holes(self) -> int:
        """The most pixels between a unit's first and last to which no path leads."""
        return max((r.pixels.bit_length() - r.pixels.bit_count() for r in self.phases if r), default=0)

    def reach(self, unit: int) -> Reach | None:
        """What a unit reads; not cut off at the border."""
        turn, phase = divmod(unit, len(self.phases))
        reach = self.phases[phase]
        return Reach(reach.low + self.jump * turn, reach.pixels) if reach else None

    def after(self, window: Window) -> "Span":
        """The span of units that read this map through windows."""
        # The turns of the new units come round after so many of them, which move so many turns of the old.
        period = window.spread * len(self.phases)
        turns = period // math.gcd(window.stride, period)
        jump = self.jump * (window.stride * turns // period)
        return Span(jump, tuple(_union(self.reach(unit) for unit in window.units(turn)) for turn in range(turns)))

    def all_units(self, units: int) -> "Span":
        """The span of something that reads all units of this map."""
        reaches = [reach for reach in map(self.reach, range(units)) if reach]
        if not reaches:
            return Span(0, (None,))
        low, high = min(reach.low for reach in reaches), max(reach.high for reach in reaches)
        return Span(0, (Reach(low, (1 << high - low + 1) - 1),))


def counts(span: Span, units: int, pixels: int) -> tuple[int, ...]:
    """How many of a map's units along an axis read each of the pixels."""
    found = [0] * pixels
    for reach in filter(None, map(span.reach, range(units))):
        for pixel in range(max(reach.low, 0), min(reach.high, pixels - 1) + 1):
            found[pixel] += reach.pixels >> pixel - reach.low & 1
    return tuple(found)


def cover(spans: Sequence[Span]) -> Span:
    """The smallest span that has all the pixels of several."""
    if len(set(spans)) == 1:
        return spans[0]
    period = math.lcm(*(len(span.phases) for span in spans))
    jump = max(span.jump * (period // len(span.phases)) for span in spans)
    return Span(jump, tuple(_union(span.reach(unit) for span in spans) for unit in range(period)))


def _union(reaches: Iterable[Reach | None]) -> Reach | None:
    given = [reach for reach in reaches if reach]
    if not given:
        return None
    low, pixels = min(reach.low for reach in given), 0
    for reach in given:
        pixels |= reach.pixels << reach.low - low
    return Reach(low, pixels)
