"""`Qualities`: how good the answers of each target are, by the kind of task.

Three kinds of evidence go into one Beta posterior per target and task: evals (strong), what callers say (weaker), and
cheap checks of each answer (weak, but plenty). What was seen counts half after `half_life_s`. None of the three can
drown the others: each is worth at most so many observations, however much comes of it, so that a flood of good JSON
does not hide a bad eval, nor one zealous caller an honest one.
"""

from collections import OrderedDict
from collections.abc import Mapping
from math import exp2
from typing import Literal

from msgspec import Struct

from tidegate.clock import Clock
from tidegate.config.evals import EvalFile
from tidegate.config.replicas import engine_of
from tidegate.protocol.routing import TASKS, Task
from tidegate.routing.targets import Target

Source = Literal["eval", "feedback", "checks"]

SOURCES: tuple[Source, ...] = ("eval", "feedback", "checks")
WEIGHTS: Mapping[Source, float] = {"eval": 1.0, "feedback": 0.5, "checks": 0.05}  # of one observation
_MOST: Mapping[Source, float] = {"eval": 400.0, "feedback": 100.0, "checks": 20.0}  # of all, as observations
_PRIOR = 0.5  # where the operator says nothing
_PRIOR_WEIGHT = 4.0
_HALF_LIFE_S = 7 * 86_400.0
_MAX_POSTERIORS = 10_000  # names of models may be a caller's invention


class Evidence:
    """What one source says, as weights of good and of all."""

    __slots__ = ("all", "good")

    def __init__(self) -> None:
        self.good = 0.0
        self.all = 0.0


class Posterior:
    """One target at one task; times are in seconds of one clock, which never steps back.

    All evidence fades alike, so it is kept as of the last note, and a reading fades the sums.
    """

    __slots__ = ("_all", "_at_s", "_good", "_half_life_s", "evidence")

    def __init__(self, at_s: float, half_life_s: float = _HALF_LIFE_S) -> None:
        self.evidence: Mapping[Source, Evidence] = {source: Evidence() for source in SOURCES}
        self._half_life_s = half_life_s
        self._at_s = at_s
        self._good = 0.0
        self._all = 0.0

    def note(self, good: float, weight: float, source: Source, at_s: float) -> None:
        """Something was `good` to this share, 0 to 1, and counts as `weight` observations."""
        kept = self._kept(at_s)
        for each in self.evidence.values():
            each.good *= kept
            each.all *= kept
        self._at_s = at_s
        told = self.evidence[source]
        told.good += min(1.0, max(0.0, good)) * weight
        told.all += weight
        if told.all > _MOST[source]:
            told.good *= _MOST[source] / told.all
            told.all = _MOST[source]
        self._good = sum(each.good for each in self.evidence.values())
        self._all = sum(each.all for each in self.evidence.values())

    def forget(self, source: Source, at_s: float) -> None:
        """What `source` said counts no more."""
        self.evidence[source].good = self.evidence[source].all = 0.0
        self.note(0.0, 0.0, source, at_s)

    def correct(self, before: float, after: float, weight: float, source: Source, at_s: float) -> None:
        """What was noted as `before` not long ago was `after`; that it may have faded since is not looked at."""
        self.note(0.0, 0.0, source, at_s)
        told = self.evidence[source]
        told.good = min(told.all, max(0.0, told.good + (after - before) * weight))
        self._good = sum(each.good for each in self.evidence.values())

    def mean(self, prior: float, at_s: float) -> float:
        """How good the next answer will be, 0 to 1."""
        kept = self._kept(at_s)
        return (prior * _PRIOR_WEIGHT + self._good * kept) / (_PRIOR_WEIGHT + self._all * kept)

    def deviation(self, prior: float, at_s: float) -> float:
        """The standard deviation of that: how far off `mean` may well be."""
        mean = self.mean(prior, at_s)
        count = _PRIOR_WEIGHT + self._all * self._kept(at_s)
        return float((mean * (1 - mean) / (count + 1)) ** 0.5)

    def counts(self, at_s: float) -> dict[Source, float]:
        """The observations that each source is worth now."""
        kept = self._kept(at_s)
        return {source: each.all * kept for source, each in self.evidence.items()}

    def _kept(self, at_s: float) -> float:
        return exp2((self._at_s - at_s) / self._half_life_s)


class Quality(Struct, frozen=True, kw_only=True):
    """What is known of one target at one task, for `/admin/targets`.

    Attributes:
        mean: 0 to 1; `low` and `high` are two standard deviations off.
        evidence: the observations that each source is worth.
    """

    target: str
    task: Task
    mean: float
    low: float
    high: float
    evidence: Mapping[Source, float]


class Qualities:
    """Owner of the posteriors, by target name and task; replicas of an engine have the same model and share them.

    The one that was noted longest ago goes when it is full.
    """

    def __init__(
        self, clock: Clock, *, half_life_s: float = _HALF_LIFE_S, max_posteriors: int = _MAX_POSTERIORS
    ) -> None:
        self._clock = clock
        self._half_life_s = half_life_s
        self._max = max_posteriors
        self._posteriors: OrderedDict[tuple[str, Task], Posterior] = OrderedDict()

    def note(self, target_name: str, task: Task, good: float, source: Source, weight: float | None = None) -> None:
        """An answer of `target_name` was `good` to this share, 0 to 1; its weight is the source's unless said."""
        self._note(target_name, task, good, source, WEIGHTS[source] if weight is None else weight)

    def correct(self, target_name: str, task: Task, before: float, after: float, source: Source) -> None:
        """What was noted of one answer as `before`, lately, is `after`."""
        if (posterior := self._posteriors.get((_shared(target_name), task))) is not None:
            posterior.correct(before, after, WEIGHTS[source], source, self._clock.monotonic_s())

    def mean(self, target: Target, task: Task, now_s: float | None = None) -> float:
        """How good its answers to such a task are, 0 to 1; what the operator says of it, until something is known.

        `now_s` is what the clock says, where the caller has looked.
        """
        prior = _PRIOR if target.quality is None else target.quality
        posterior = self._posteriors.get((target.shared_name, task))
        if posterior is None:
            return prior
        return posterior.mean(prior, self._clock.monotonic_s() if now_s is None else now_s)

    def load(self, found: EvalFile | None) -> None:
        """Take over what an eval found, in place of what was loaded before; None: nothing is loaded any more.

        A run of the past counts as much as is left of it.
        """
        now_s = self._clock.monotonic_s()
        for posterior in self._posteriors.values():
            posterior.forget("eval", now_s)
        if found is None:
            return
        age_s = max(0.0, self._clock.now_s() - found.taken_at)
        kept = 0.5 ** (age_s / self._half_life_s)
        for score in found.scores:
            if score.asked:
                self._note(score.target, score.task, score.right / score.asked, "eval", score.asked * kept)

    def report(self, target: Target) -> list[Quality]:
        """What is known of `target`, by task; nothing where nothing is."""
        prior = _PRIOR if target.quality is None else target.quality
        now_s = self._clock.monotonic_s()
        found = [(task, self._posteriors.get((target.shared_name, task))) for task in TASKS]
        return [_quality(target.name, task, each, prior, now_s) for task, each in found if each is not None]

    def _note(self, name: str, task: Task, good: float, source: Source, weight: float) -> None:
        name, now_s = _shared(name), self._clock.monotonic_s()
        posterior = self._posteriors.get((name, task))
        if posterior is None:
            if len(self._posteriors) >= self._max:
                self._posteriors.popitem(last=False)
            posterior = self._posteriors[name, task] = Posterior(now_s, self._half_life_s)
        self._posteriors.move_to_end((name, task))
        posterior.note(good, weight, source, now_s)


def _shared(target_name: str) -> str:
    """The `Target.shared_name` for a `Target.name`."""
    place, slash, model = target_name.partition("/")
    return f"{engine_of(place)}{slash}{model}"


def _quality(name: str, task: Task, posterior: Posterior, prior: float, now_s: float) -> Quality:
    mean, spread = posterior.mean(prior, now_s), 2 * posterior.deviation(prior, now_s)
    return Quality(
        target=name,
        task=task,
        mean=mean,
        low=max(0.0, mean - spread),
        high=min(1.0, mean + spread),
        evidence=posterior.counts(now_s),
    )
