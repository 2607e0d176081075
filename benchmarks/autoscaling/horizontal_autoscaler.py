"""The decision of Kubernetes' HorizontalPodAutoscaler, of which KEDA makes one, for metrics of the type AverageValue.

The rules are those of autoscaling/v2: https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

TOLERANCE = 0.1  # by which a metric may be off its target without an effect: the controller manager's default
SYNC_SECONDS = 15.0  # between decisions: its default too


@dataclass(frozen=True)
class ScalingPolicy:
    """How many replicas may be added or removed within some seconds, in percent or as a number."""

    percent: bool
    value: int
    seconds: float


@dataclass
class HorizontalAutoscaler:
    """Decides on the number of replicas, and remembers what it wanted and changed before.

    Attributes:
        least, most: the bounds of the number of replicas.
        targets: what each metric may be for a replica, by its name.
        stabilization: for so many seconds the most replicas that were wanted are kept.
        up, down: of each, the policy that allows the most counts.
    """

    least: int
    most: int
    targets: Mapping[str, float]
    stabilization: float
    up: tuple[ScalingPolicy, ...]
    down: tuple[ScalingPolicy, ...]
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def decide(self, now: float, replicas: int, metrics: Mapping[str, float]) -> int:
        """The number of replicas from now on, of the sum of each metric over all replicas."""
        wanted = self._stabilized(now, replicas, max(self._for(replicas, metrics)))
        wanted = min(max(self._limited(now, replicas, wanted), self.least), self.most)
        if wanted != replicas:
            self._changes.append((now, wanted - replicas))
        return wanted

    def _for(self, replicas: int, metrics: Mapping[str, float]) -> Iterable[int]:
        for name, target in self.targets.items():
            near = abs(metrics[name] / (target * replicas) - 1) <= TOLERANCE
            yield replicas if near else math.ceil(metrics[name] / target)

    def _stabilized(self, now: float, replicas: int, wanted: int) -> int:
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - self.stabilization:
            self._wanted.popleft()
        return max(wanted, min(replicas, max(number for _, number in self._wanted)))

    def _limited(self, now: float, replicas: int, wanted: int) -> int:
        if wanted > replicas:
            return min(wanted, max(self._after(now, replicas, policy, 1) for policy in self.up))
        return max(wanted, min(self._after(now, replicas, policy, -1) for policy in self.down))

    def _after(self, now: float, replicas: int, policy: ScalingPolicy, sign: int) -> int:
        """The number of replicas that the policy allows, of those that there were at the start of its time."""
        changed = sum(sign * by for at, by in self._changes if at > now - policy.seconds and sign * by > 0)
        before = replicas - sign * changed
        if not policy.percent:
            return before + sign * policy.value
        share = before * (1 + sign * policy.value / 100)
        return math.ceil(share) if sign > 0 else math.floor(share)


def autoscaler_of(scaled_object: Mapping[str, Any]) -> HorizontalAutoscaler:
    """The autoscaler that KEDA makes of a ScaledObject; all its triggers are of the type AverageValue."""
    spec = scaled_object["spec"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    if behavior["scaleUp"]["stabilizationWindowSeconds"]:
        raise ValueError("the simulation has no stabilization of scaling up")
    return HorizontalAutoscaler(
        spec["minReplicaCount"],
        spec["maxReplicaCount"],
        {trigger["name"]: float(trigger["metadata"]["threshold"]) for trigger in spec["triggers"]},
        behavior["scaleDown"]["stabilizationWindowSeconds"],
        _policies(behavior["scaleUp"]),
        _policies(behavior["scaleDown"]),
    )


def _policies(rules: Mapping[str, Any]) -> tuple[ScalingPolicy, ...]:
    return tuple(
        ScalingPolicy(each["type"] == "Percent", each["value"], each["periodSeconds"]) for each in rules["policies"]
    )
