"""`Qualities`: how good the answers of each target are, by the kind of task.

Each target and task has one Beta posterior. It combines three kinds of evidence: evals (strong), callers' feedback
(weaker), and cheap checks of each answer (weak, but many). Evidence counts half after `half_life_s`. No kind can
outweigh the others: each counts at most as a fixed number of observations, however many there are. So neither many
answers with valid JSON nor many ratings by one caller hide a bad eval.
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
WEIGHTS: Mapping[Source, float] = {"eval": 1.0, "feedback": 0.5, "checks": 0.05}  # the weight of one observation
_MAX_WEIGHT: Mapping[Source, float] = {
    "eval": 400.0,
    "feedback": 100.0,
    "checks": 20.0,
}  # the most that the observations of one source count, together
_PRIOR = 0.5  # if the operator sets no quality
_PRIOR_WEIGHT = 4.0
_HALF_LIFE_S = 7 * 86_400.0
_MAX_POSTERIORS = 10_000  # callers may invent names of models


class QualityEvidence:
    """The evidence of one source: the total weight of the good observations, and of all observations."""

    __slots__ = ("all", "good")

    def __init__(self) -> None:
        self.good = 0.0
        self.all = 0.0


class Posterior:
    """The posterior of one target at one task; times are seconds of one clock that never steps back.

    All evidence decays at the same rate. So it is stored as it was at the last `note`, and each reading applies the
    decay since then to the sums.
    """

    __slots__ = ("_all", "_at_s", "_good", "_half_life_s", "evidence")

    def __init__(self, at_s: float, half_life_s: float = _HALF_LIFE_S) -> None:
        self.evidence: Mapping[Source, QualityEvidence] = {source: QualityEvidence() for source in SOURCES}
        self._half_life_s = half_life_s
        self._at_s = at_s
        self._good = 0.0
        self._all = 0.0

    def note(self, good: float, weight: float, source: Source, at_s: float) -> None:
        """Record an observation: `good` is the share that was good, 0 to 1; it counts as `weight` observations."""
        kept = self._kept(at_s)
        for each in self.evidence.values():
            each.good *= kept
            each.all *= kept
        self._at_s = at_s
        evidence = self.evidence[source]
        evidence.good += min(1.0, max(0.0, good)) * weight
        evidence.all += weight
        if evidence.all > _MAX_WEIGHT[source]:
            evidence.good *= _MAX_WEIGHT[source] / evidence.all
            evidence.all = _MAX_WEIGHT[source]
        self._good = sum(each.good for each in self.evidence.values())
        self._all = sum(each.all for each in self.evidence.values())

    def forget(self, source: Source, at_s: float) -> None:
        """Remove the evidence of `source`."""
        self.evidence[source].good = self.evidence[source].all = 0.0
        self.note(0.0, 0.0, source, at_s)

    def correct(self, before: float, after: float, weight: float, source: Source, at_s: float) -> None:
        """Change a recent observation recorded as `before` to `after`; the decay of the observation is ignored."""
        self.note(0.0, 0.0, source, at_s)
        evidence = self.evidence[source]
        evidence.good = min(evidence.all, max(0.0, evidence.good + (after - before) * weight))
        self._good = sum(each.good for each in self.evidence.values())

    def mean(self, prior: float, at_s: float) -> float:
        """The expected quality of the next answer, 0 to 1."""
        kept = self._kept(at_s)
        return (prior * _PRIOR_WEIGHT + self._good * kept) / (_PRIOR_WEIGHT + self._all * kept)

    def deviation(self, prior: float, at_s: float) -> float:
        """The standard deviation of `mean`."""
        mean = self.mean(prior, at_s)
        count = _PRIOR_WEIGHT + self._all * self._kept(at_s)
        return float((mean * (1 - mean) / (count + 1)) ** 0.5)

    def counts(self, at_s: float) -> dict[Source, float]:
        """The number of observations that each source counts as now."""
        kept = self._kept(at_s)
        return {source: each.all * kept for source, each in self.evidence.items()}

    def _kept(self, at_s: float) -> float:
        return exp2((self._at_s - at_s) / self._half_life_s)


class Quality(Struct, frozen=True, kw_only=True):
    """What is known of one target at one task, for `/admin/targets`.

    Attributes:
        mean: the expected quality, 0 to 1; `low` and `high` are two standard deviations away.
        evidence: the number of observations that each source counts as.
    """

    target: str
    task: Task
    mean: float
    low: float
    high: float
    evidence: Mapping[Source, float]


class Qualities:
    """Owns the posteriors, by target name and task; the replicas of an engine have the same model and share them.

    When it is full, the posterior whose last note is the oldest is dropped.
    """

    def __init__(
        self, clock: Clock, *, half_life_s: float = _HALF_LIFE_S, max_posteriors: int = _MAX_POSTERIORS
    ) -> None:
        self._clock = clock
        self._half_life_s = half_life_s
        self._max = max_posteriors
        self._posteriors: OrderedDict[tuple[str, Task], Posterior] = OrderedDict()

    def note(self, target_name: str, task: Task, good: float, source: Source, weight: float | None = None) -> None:
        """Record an answer of `target_name`: `good` is 0 to 1; `weight` is by default the source's."""
        self._note(target_name, task, good, source, WEIGHTS[source] if weight is None else weight)

    def correct(self, target_name: str, task: Task, before: float, after: float, source: Source) -> None:
        """Change a recent observation of one answer from `before` to `after`."""
        if (posterior := self._posteriors.get((_shared(target_name), task))) is not None:
            posterior.correct(before, after, WEIGHTS[source], source, self._clock.monotonic_s())

    def mean(self, target: Target, task: Task, now_s: float | None = None) -> float:
        """The expected quality of its answers to such a task, 0 to 1; without observations, the operator's value.

        `now_s` is the clock's monotonic reading, if the caller has it.
        """
        prior = _PRIOR if target.quality is None else target.quality
        posterior = self._posteriors.get((target.shared_name, task))
        if posterior is None:
            return prior
        return posterior.mean(prior, self._clock.monotonic_s() if now_s is None else now_s)

    def load(self, eval_file: EvalFile | None) -> None:
        """Replace the evidence of evals by that of this file; None removes it.

        A run in the past counts with its decayed weight.
        """
        now_s = self._clock.monotonic_s()
        for posterior in self._posteriors.values():
            posterior.forget("eval", now_s)
        if eval_file is None:
            return
        age_s = max(0.0, self._clock.now_s() - eval_file.taken_at)
        kept = 0.5 ** (age_s / self._half_life_s)
        for score in eval_file.scores:
            if score.asked:
                self._note(score.target, score.task, score.right / score.asked, "eval", score.asked * kept)

    def report(self, target: Target) -> list[Quality]:
        """What is known of `target`, by task; tasks without observations are left out."""
        prior = _PRIOR if target.quality is None else target.quality
        now_s = self._clock.monotonic_s()
        posteriors = [(task, self._posteriors.get((target.shared_name, task))) for task in TASKS]
        return [_quality(target.name, task, each, prior, now_s) for task, each in posteriors if each is not None]

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
    upstream, slash, model = target_name.partition("/")
    return f"{engine_of(upstream)}{slash}{model}"


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
