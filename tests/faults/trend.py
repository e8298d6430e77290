"""Whether a figure stays flat: a straight line through its samples, and what that line gains."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trend:
    """The line of least squares through samples, those of a warm-up left out.

    Attributes:
        mean: the samples' mean.
        most: the largest sample.
        growth: what the line gains from the first sample to the last.
        seconds: the time between these.
    """

    mean: float
    most: float
    growth: float
    seconds: float

    @classmethod
    def of(cls, samples: Sequence[tuple[float, float]], *, warm_up: float) -> "Trend":
        """The trend of (seconds, value) samples; `warm_up` is the share of the time that is left out."""
        start, end = samples[0][0], samples[-1][0]
        kept = [(at, value) for at, value in samples if at >= start + warm_up * (end - start)]
        middle = sum(at for at, _ in kept) / len(kept)
        mean = sum(value for _, value in kept) / len(kept)
        spread = sum((at - middle) ** 2 for at, _ in kept)
        slope = sum((at - middle) * (value - mean) for at, value in kept) / spread if spread else 0.0
        seconds = kept[-1][0] - kept[0][0]
        return cls(mean, max(value for _, value in kept), slope * seconds, seconds)

    @property
    def per_hour(self) -> float:
        """The slope."""
        return self.growth / self.seconds * 3600 if self.seconds else 0.0

    def is_flat(self, share: float, floor: float) -> bool:
        """Whether it gains no more than a share of its mean, or than a floor where it is small anyway."""
        return self.growth <= max(share * self.mean, floor)
