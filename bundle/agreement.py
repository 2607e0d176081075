"""How a precision, or an engine, agrees with float32 on photographs, and whether that is enough to serve."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# docs/accuracy.md shows what they let through, and what 10,000 images say of it.
MAX_DISTANCE = 0.15
MAX_SCORE_DISTANCE = 0.05
MAX_LOSS = 0.005

Proportion = Annotated[float, Field(ge=0, le=1)]
Difference = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Agreement(BaseModel):
    """How logits agree with float32's.

    A network of one class counts as one of two classes: whether its score is over 0.5.

    Attributes:
        images: the number of views of photographs.
        photographs: the number of photographs.
        top1: the share of views with float32's best class.
        clear: the share of views whose best class leads float32's next one by more than twice `worst`, so that no
            difference as large as any that was seen can change it.
        worst: the largest difference of any logit.
        scale: float32's largest logit.
        distance: of the answers' logits: the root of the mean square of their differences, by the standard deviation of
            float32's logits within an image. What softmax ignores, an equal difference of all logits, does not count.
        score_distance: the largest difference of any class's score, the mean over views.
        loss: the accuracy that is expected to be lost, from 0 to 1: what another best class lacks to float32's in
            float32's score. It is the larger of two means over the views: of the best classes that did change, and of
            those that change if the differences of a view's 20 best classes are shuffled among them.
        loss_limit: the upper end of the 95 % interval of `loss`, over photographs.
    """

    model_config = ConfigDict(frozen=True)

    images: Annotated[int, Field(ge=1)]
    photographs: Annotated[int, Field(ge=1)]
    top1: Proportion
    clear: Proportion
    worst: Difference
    scale: Difference
    distance: Difference
    score_distance: Proportion
    loss: Proportion
    loss_limit: Proportion

    def describe(self, least_top1: float | None = None) -> str:
        """What was measured, and its fault if there is one, for people."""
        fault = self.fault(least_top1)
        return (
            f"float32's best class for {self.top1:.1%} of {self.images} views of {self.photographs} photographs; "
            f"logits differ by {self.distance:.2%} of their spread, at most by {self.worst:.1e} "
            f"(the largest is {self.scale:.1f}), "
            f"scores by {self.score_distance:.4f}; expected to cost {100 * self.loss:.3f} points of accuracy, at most "
            f"{100 * self.loss_limit:.3f}" + (f". NOT TAKEN BY ITSELF: {fault}" if fault else "")
        )

    def fault(self, least_top1: float | None = None) -> str | None:
        """Why this is not enough to take a precision or an engine that nobody asked for by name; None if it is.

        `least_top1` is the share of images that must have float32's best class; if given, it is the only rule.
        """
        on = f"over {self.images} views of {self.photographs} photographs"
        if least_top1 is not None:
            if self.top1 >= least_top1:
                return None
            return f"it has float32's best class for {self.top1:.1%} {on}, and at least {least_top1:.1%} are asked for"
        if self.distance > MAX_DISTANCE:
            return (
                f"its logits differ from float32's by {self.distance:.1%} of their spread {on}; {MAX_DISTANCE:.0%} may"
            )
        if self.score_distance > MAX_SCORE_DISTANCE:
            return f"its scores differ from float32's by {self.score_distance:.3f} {on}; {MAX_SCORE_DISTANCE} may"
        if self.loss_limit > MAX_LOSS:
            return (
                f"it is expected to cost {100 * self.loss:.2f} points of accuracy {on}, at most "
                f"{100 * self.loss_limit:.2f}; {100 * MAX_LOSS:.1f} may"
            )
        return None
