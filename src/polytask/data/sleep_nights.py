"""Virtual sleepers: windows of pulse, flow and breathing effort with stage, disorder, exact events.

What the stage sets is the rate and regularity of breathing and pulse; what a disorder does to flow
and effort is its clinical definition (AASM scoring manual): obstructive, no flow while chest and
abdomen strain against each other; central, neither flow nor effort; hypopnea, less flow. Disorders
are likelier in REM and N1, so that each task tells something about the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from polytask.data.signals import Windows
from polytask.errors import InputError

STAGES = ("Wake", "N1", "N2", "N3", "REM")
DISORDERS = ("none", "obstructive", "hypopnea", "central")
CHANNELS = ("ppg", "flow", "chest", "abdomen")


@dataclass(frozen=True)
class Manner:
    """How one breathes, and how the pulse goes, in one stage.

    Attributes:
        breath, pulse: rates (Hz).
        breath_spread, pulse_spread: deviation of the logarithm of the rate within a window.
        depth_spread: of the logarithm of the depth of breaths.
        amplitude: of the pulse wave, relative; also how strongly breathing modulates it.
        movements: bursts of movement per window.
    """

    breath: float
    breath_spread: float
    depth_spread: float
    pulse: float
    pulse_spread: float
    amplitude: float
    movements: float


MANNERS = {
    "Wake": Manner(0.30, 0.14, 0.20, 1.20, 0.07, 0.8, 1.2),
    "N1": Manner(0.26, 0.10, 0.14, 1.10, 0.06, 0.9, 0.15),
    "N2": Manner(0.245, 0.06, 0.08, 1.02, 0.04, 1.0, 0.05),
    "N3": Manner(0.225, 0.02, 0.03, 0.95, 0.02, 1.1, 0.0),
    "REM": Manner(0.275, 0.20, 0.28, 1.12, 0.09, 0.7, 0.05),
}

# Chance of each disorder, in the order of DISORDERS.
RISKS = {
    "Wake": (0.70, 0.10, 0.12, 0.08),
    "N1": (0.16, 0.30, 0.26, 0.28),
    "N2": (0.46, 0.18, 0.20, 0.16),
    "N3": (0.76, 0.06, 0.08, 0.10),
    "REM": (0.10, 0.40, 0.30, 0.20),
}


@dataclass(frozen=True)
class SleepNights:
    """A seeded set of virtual sleepers.

    Every window is drawn on its own: a stage from ``stages``, a disorder from the stage's risks, a
    window of signals from both and from the sleeper's own rates, gains and noise. Windows do not
    follow each other.

    Attributes:
        subjects, epochs: sleepers, and windows of each.
        rate: samples per second (Hz).
        seconds: length of a window.
        event: seconds that a breathing event lasts.
        stages: chance of each stage, in the order of ``STAGES``.
        noise: deviation of the measurement noise, on average; a breath has the amplitude 1.
    """

    subjects: int = 60
    epochs: int = 40
    rate: float = 16.0
    seconds: float = 30.0
    event: float = 10.0
    stages: tuple[float, ...] = (0.2, 0.2, 0.2, 0.2, 0.2)
    noise: float = 0.3
    seed: int = 0
    manners: dict[str, Manner] = field(default_factory=lambda: dict(MANNERS))

    def __post_init__(self) -> None:
        for name in ("subjects", "epochs", "rate", "seconds", "event"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}")
        if self.event + _RECOVERY >= self.seconds:
            raise InputError(
                f"an event of {self.event:g} s and the pulse's answer do not fit into a window of "
                f"{self.seconds:g} s"
            )
        if len(self.stages) != len(STAGES) or abs(sum(self.stages) - 1) > 1e-6:
            raise InputError(f"stages are {len(STAGES)} chances that sum to 1, not {self.stages}")

    def draw(self) -> tuple[Windows, NDArray[np.float64]]:
        """The windows, and where the event of each lies.

        Returns:
            windows with the labels ``stage`` and ``disorder``; start and end of the event in
            seconds from the start of the window ``[N, 2]``, NaN where there is none.
        """
        signals, subjects, stages, disorders, events = [], [], [], [], []
        for number in range(self.subjects):
            rng = np.random.default_rng((self.seed, number))  # a sleeper is the same in any company
            sleeper = _Sleeper(rng, self)
            for _ in range(self.epochs):
                stage = str(rng.choice(STAGES, p=self.stages))
                disorder = str(rng.choice(DISORDERS, p=RISKS[stage]))
                signal, event = sleeper.window(stage, disorder)
                signals.append(signal)
                events.append(event)
                stages.append(stage)
                disorders.append(disorder)
            subjects += [f"sleeper {number:03d}"] * self.epochs
        found = Windows(
            np.stack(signals).astype(np.float32),
            CHANNELS,
            self.seconds,
            np.array(subjects),
            np.tile(np.arange(self.epochs) * self.seconds, self.subjects),
            {"stage": stages, "disorder": disorders},
            ("virtual sleepers: no real recording",),
        )
        return found, np.array(events)


_RECOVERY = 8.0  # seconds after an event within which the pulse wave dips and comes back


class _Sleeper:
    """One subject: rates, gains and noise of its own."""

    def __init__(self, rng: np.random.Generator, nights: SleepNights) -> None:
        self.rng, self.nights = rng, nights
        self.time = np.arange(round(nights.rate * nights.seconds)) / nights.rate
        self.breath, self.pulse = np.exp(rng.normal(0, [0.07, 0.08]))
        self.gain = np.exp(rng.normal(0, 0.3, len(CHANNELS)))
        self.noise = nights.noise * np.exp(rng.normal(0, 0.3, len(CHANNELS)))
        self.lag = rng.uniform(0.1, 0.5)  # of the abdomen behind the chest (radians)

    def window(self, stage: str, disorder: str) -> tuple[NDArray, tuple[float, float]]:
        """Signals ``[L, 4]`` and the event (start, end) in seconds."""
        rng, time, manner = self.rng, self.time, self.nights.manners[stage]
        event = (np.nan, np.nan)
        inside = np.zeros_like(time)
        if disorder != "none":
            start = rng.uniform(0, self.nights.seconds - self.nights.event - _RECOVERY)
            event = (start, start + self.nights.event)
            inside = _ramp(time, *event)
        phase = self._phase(manner.breath * self.breath, manner.breath_spread)
        depth = np.exp(manner.depth_spread * self._wander(3.0))
        flow, chest = depth * np.cos(phase), depth * np.sin(phase)
        abdomen = depth * np.sin(phase - self.lag)
        if disorder == "obstructive":
            flow = flow * (1 - 0.97 * inside)
            abdomen = abdomen * (1 - 2 * inside)  # through 0 into anti-phase
        elif disorder == "central":
            flow, chest, abdomen = (x * (1 - 0.97 * inside) for x in (flow, chest, abdomen))
        elif disorder == "hypopnea":
            flow = flow * (1 - 0.6 * inside)
        beat = self._phase(manner.pulse * self.pulse, manner.pulse_spread)
        wave = np.cos(beat) + 0.4 * np.cos(2 * beat - 0.8)
        size = manner.amplitude * (1 + 0.15 * np.sin(phase))
        if disorder != "none":
            size = size * (1 - 0.4 * _ramp(time, event[1] + 1, event[1] + _RECOVERY - 2))
        signals = np.stack([size * wave, flow, chest, abdomen], axis=1)
        for _ in range(rng.poisson(manner.movements)):
            at, length = rng.uniform(0, self.nights.seconds), rng.uniform(1, 4)
            burst = _ramp(time, at, at + length)[:, None]
            signals = signals + burst * rng.normal(0, 1.2, (len(time), len(CHANNELS)))
        signals = signals + self.noise * rng.normal(size=signals.shape)
        return self.gain * signals, event

    def _phase(self, rate: float, spread: float) -> NDArray:
        """Phase of an oscillation whose rate wanders by ``spread`` around ``rate`` Hz."""
        rates = rate * np.exp(spread * self._wander(2.0))
        start = self.rng.uniform(0, 2 * np.pi)
        return start + 2 * np.pi * np.cumsum(rates) / self.nights.rate

    def _wander(self, seconds: float) -> NDArray:
        """Noise of deviation 1 that forgets itself within so many seconds (Ornstein-Uhlenbeck)."""
        keep = np.exp(-1 / (seconds * self.nights.rate))
        shocks = self.rng.normal(size=len(self.time)) * np.sqrt(1 - keep**2)
        shocks[0] /= np.sqrt(1 - keep**2)
        return lfilter([1.0], [1.0, -keep], shocks)


def _ramp(time: NDArray, start: float, end: float) -> NDArray:
    """1 from start to end, 0 outside, with edges of half a second."""
    return np.clip(np.minimum(time - start, end - time) / 0.5 + 0.5, 0, 1)
