"""What a bundle says of how its engines agree with float32."""

from app.engines.registry import ON_CPU, PLAN_ENGINE
from bundle.agreement import Agreement
from bundle.precisions import F32
from bundle.reader import Bundle


def measured_agreement(bundle: Bundle, resolution: int, engine: str, precision: str) -> Agreement | None:
    """How `engine` agreed with float32 when it was exported; None for float32 itself, and if it was not compared.

    Of plans it is the worst of all profiles.
    """
    if engine == PLAN_ENGINE:
        plans = (plan.manifest for plan in bundle.plans.fit.get(resolution, ()))
        proofs = [proof for plan in plans if plan.precision == precision for proof in plan.proof or ()]
        return max(proofs, key=lambda proof: proof.distance, default=None)
    if precision == F32:
        return None
    if engine in ON_CPU:
        return bundle.manifest.agreement.get(precision, {}).get(resolution)
    half = bundle.manifest.precisions.get(precision)
    return half.agreement.get(resolution) if half else None
