"""The bodies of error responses: problem details, and what the clients of other protocols read in their place."""

import re
from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, Field

from app.api.schemas import Problem

PROBLEM_MEDIA_TYPE = "application/problem+json"


class OipError(BaseModel):
    """The body of an error response of the Open Inference Protocol, of KServe's V1 protocol and of Hugging Face."""

    error: str

    @classmethod
    def of(cls, problem: Problem) -> "OipError":
        """`problem` in this form."""
        return cls(error=problem.detail)


class TorchServeError(BaseModel):
    """The body of an error response of the routes of TorchServe; `type` is the `reason` of problem details."""

    code: Annotated[int, Field(description="the status")]
    type: str
    message: str

    @classmethod
    def of(cls, problem: Problem) -> "TorchServeError":
        """`problem` in this form."""
        return cls(code=problem.status, type=problem.reason, message=problem.detail)


_OPENAI_PARAM = re.compile(r"(input(\[\d+\])?|dimensions|encoding_format|model)(?=[ :])")


class OpenAIErrorDetail(BaseModel):
    """What went wrong: `type` is the kind of error, `code` names it for programs."""

    message: str
    type: Annotated[str, Field(description="invalid_request_error, rate_limit_error or server_error")]
    param: Annotated[str | None, Field(description="the member of the request that it is about")] = None
    code: str


class OpenAIError(BaseModel):
    """The body of an error response of the routes below /v1, as OpenAI has it."""

    error: OpenAIErrorDetail

    @classmethod
    def of(cls, problem: Problem) -> "OpenAIError":
        """`problem` in this form."""
        kind = "server_error" if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        kind = "rate_limit_error" if problem.status == HTTPStatus.TOO_MANY_REQUESTS else kind
        about = _OPENAI_PARAM.match(problem.detail)  # a message about one member begins with its name
        param = about and about[0]
        return cls(error=OpenAIErrorDetail(message=problem.detail, type=kind, param=param, code=problem.reason))


ErrorFormat = type[OipError] | type[TorchServeError] | type[OpenAIError] | None  # None for problem details

_FORMATS: tuple[tuple[re.Pattern[str], ErrorFormat], ...] = (
    (re.compile(r"/v2|/v1/models|/models/|/pipeline/"), OipError),
    (re.compile(r"/v1/"), OpenAIError),
    (re.compile(r"/predictions/|/ping"), TorchServeError),
)


def error_format(method: str, path: str) -> ErrorFormat:
    """The format of the error responses to requests for `path`."""
    if path == "/":
        return OipError if method == "POST" else None
    return next((form for start, form in _FORMATS if start.match(path)), None)
