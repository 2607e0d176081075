"""The rows of a bulk run, and their columns: the answer of POST /classify, or its problem, with the image's id."""

from collections.abc import Sequence
from typing import Any

from app.api.problems import problem_of
from bundle.bundle_errors import ExplainedError
from bundle.class_labels import ClassLabel

ResultRow = dict[str, Any]  # by the names of result_schema


def result_schema(embedding_width: int | None = None) -> Any:
    """The columns: the best class flat, all wanted classes as a list, and the problem; each is null without the other.

    `embedding` is there if it has a width.
    """
    import pyarrow as pa  # here, since it is optional

    best = {"index": pa.int32(), "wnid": pa.string(), "label": pa.string(), "score": pa.float64()}
    problem = {
        "type": pa.string(),
        "title": pa.string(),
        "status": pa.int32(),
        "reason": pa.string(),
        "detail": pa.string(),
    }
    columns = {
        "id": pa.string(),
        **best,
        "predictions": pa.list_(pa.struct({"rank": pa.int32(), **best})),
        "problem": pa.struct(problem),
    }
    if embedding_width is not None:
        columns["embedding"] = pa.list_(pa.float32(), embedding_width)
    return pa.schema(columns)


def answered_row(image_id: str, classes: Sequence[tuple[ClassLabel, float]], embedding: Any = None) -> ResultRow:
    """The row of an image with its best classes, the best first."""
    predictions = [
        {"rank": rank, "index": label.index, "wnid": label.wnid, "label": label.label, "score": score}
        for rank, (label, score) in enumerate(classes, start=1)
    ]
    best = {name: value for name, value in predictions[0].items() if name != "rank"}
    return {"id": image_id, **best, "predictions": predictions, "problem": None, "embedding": embedding}


def problem_row(image_id: str, err: ExplainedError) -> ResultRow:
    """The row of an image without an answer: the problem is that of the service, without a request id."""
    return {"id": image_id, "problem": problem_of(err, "").model_dump(exclude={"request_id"})}
