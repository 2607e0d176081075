"""Prints the result of `crossvit evaluate`: tables for people, JSON for programs."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from rich.markup import escape
from rich.table import Column, Table

from app.commands.bench.bench_output import BenchFormat
from app.commands.evaluate.accuracy import AccuracySummary, ClassFigures, SameBranches
from app.commands.evaluate.error_detection import RISK_SHARES, ErrorDetection
from app.commands.evaluate.evaluation import Answered, EvaluationRun, ImageError, PredictionSource
from app.commands.terminal import allow_any_file_name, print_table
from bundle.class_labels import ClassLabel
from model.command_line import notes

_MAX_NAMED_ERRORS = 10  # images without an answer that the table names


@dataclass
class EvaluationReport:
    """What `crossvit evaluate` prints. `images` were requested; `failures` counts those without an answer by kind.

    `errors` names these images. `also_answered` lists further models or engines of the server that gave answers.
    """

    data: list[str]
    url: str | None
    model: Answered
    against: Answered | None
    images: int
    figures: AccuracySummary | None
    errors: list[ImageError]
    failures: dict[str, int]
    seconds: float
    images_per_second: float
    interrupted: bool
    also_answered: list[Answered] = field(default_factory=list)


def make_report(data: Sequence[str], run: EvaluationRun, source: PredictionSource) -> EvaluationReport:
    """The report of `run`, which asked `source` about the images in `data`."""
    figures, (first, *others) = run.predictions.summary(), source.answered_by()
    return EvaluationReport(
        data=list(data),
        url=source.url,
        model=first,
        against=source.against,
        images=run.images,
        figures=figures,
        errors=run.errors,
        failures=dict(Counter(run.failures).most_common()),
        seconds=run.seconds,
        images_per_second=figures.images / run.seconds if figures else 0.0,
        interrupted=run.interrupted,
        also_answered=others,
    )


def print_evaluation(report: EvaluationReport, output: BenchFormat, worst: int) -> None:
    """Print `report` on standard output, with the `worst` number of worst classes; problems on standard error."""
    allow_any_file_name()
    if output is BenchFormat.JSON:
        print(json.dumps(asdict(report), indent=2, ensure_ascii=False, default=ClassLabel.model_dump))
    else:
        _print_tables(report, worst)
    for note in _notes(report):
        notes.print(note, style="yellow", markup=False, highlight=False)


def _print_tables(report: EvaluationReport, worst: int) -> None:
    figures = report.figures
    print(f"{report.model}; {figures.images if figures else 0} of {report.images} images in {', '.join(report.data)}")
    if figures is None:
        return
    print_table(_accuracies(report, figures))
    nll = "" if figures.nll is None else f", NLL {figures.nll:.4f}"
    print(
        f"mean of classes {_percent(figures.class_mean)}; confidence {figures.confidence:.4f}, "
        f"ECE {figures.ece:.4f}{nll}"
    )
    for line in _certainty(figures):
        print(line)
    if figures.same_branches is not None:
        print(_branches_agree(figures.same_branches))
    if figures.against is not None:
        print(
            f"the same best class for {_percent(figures.against.same_best)} of the images; "
            f"logits differ by at most {figures.against.worst_difference:.2g}"
        )
    print(f"{report.images_per_second:.1f} images/s, {report.seconds:.1f} s")
    if figures.error_detection:
        print_table(_error_detection(figures.error_detection))
    if worst:
        print_table(_worst(figures.classes, worst))


def _accuracies(report: EvaluationReport, figures: AccuracySummary) -> Table:
    others = ("top-1", "95 %", "top-5")
    table = Table("", *(Column(name, justify="right", no_wrap=True) for name in others))
    table.add_row(
        "logits",
        _percent(figures.top1),
        f"{100 * figures.top1_low:.2f} to {_percent(figures.top1_high)}",
        _percent(figures.top5),
    )
    for name, branch in figures.branches.items():
        table.add_row(name, _percent(branch.top1), "", _percent(branch.top5))
    if report.against is not None and figures.against is not None:
        name = f"{report.against.name}: {report.against.engine} {report.against.precision}"
        table.add_row(escape(name), _percent(figures.against.top1), "", _percent(figures.against.top5))
    return table


def _certainty(figures: AccuracySummary) -> Iterator[str]:
    """What the calibration of the scores changed, and what prediction sets hold."""
    if figures.raw_ece is not None and figures.raw_ece != figures.ece:
        nll = "" if figures.raw_nll is None else f", NLL {figures.raw_nll:.4f}"
        yield f"before the scores were calibrated: ECE {figures.raw_ece:.4f}{nll}"
    if figures.sets is not None:
        sets = figures.sets
        yield f"prediction sets: {_percent(sets.coverage)} have the true class, {sets.mean_size:.2f} classes on average"


def _branches_agree(same: SameBranches) -> str:
    top1, others = ("-" if each is None else _percent(each) for each in (same.top1, same.top1_of_others))
    share = _percent(same.share)
    return f"both branches have the same best class for {share}: {top1} of these are right, {others} of the others"


def _error_detection(found: Mapping[str, ErrorDetection]) -> Table:
    names = ("AUROC", "AURC", *(f"wrong of the best {100 * share:.0f} %" for share in RISK_SHARES))
    table = Table("finds errors by", *(Column(name, justify="right") for name in names))
    for name, each in found.items():
        table.add_row(name, f"{each.auroc:.4f}", f"{each.aurc:.4f}", *(_percent(risk) for risk in each.risks.values()))
    return table


def _worst(classes: Sequence[ClassFigures], count: int) -> Table:
    numbers = (Column(name, justify="right", no_wrap=True) for name in ("images", "top-1", "top-5"))
    table = Table("class", "label", *numbers, "taken for", title="worst classes")
    for each in sorted(classes, key=lambda each: (each.top1, each.top5, -each.images, each.category))[:count]:
        table.add_row(
            escape(each.category),
            escape(each.truth.label) if each.truth else "",
            str(each.images),
            _percent(each.top1),
            _percent(each.top5),
            escape(f"{each.taken_for.label} ({each.taken_for_images})") if each.taken_for else "",
        )
    return table


def _notes(report: EvaluationReport) -> list[str]:
    lines = ["stopped early: these are the figures of a part of the images"] if report.interrupted else []
    lines += [f"also answered: {other}; the figures include its answers" for other in report.also_answered]
    lines += [f"{each.name} in {each.source}: {each.error}" for each in report.errors[:_MAX_NAMED_ERRORS]]
    if report.errors:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in report.failures.items())
        lines.append(f"{len(report.errors)} images have no answer ({kinds}); the last: {report.errors[-1].error}")
    unknown = [each.category for each in report.figures.classes if not each.truth] if report.figures else []
    if unknown:
        lines.append(
            f"{len(unknown)} classes were in no answer's top five, such as {unknown[0]!r}: the model lacks "
            "them, or they have few images"
        )
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
