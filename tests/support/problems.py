"""Problem details in responses."""

import httpx


def assert_problem(response: httpx.Response, status: int, detail: str) -> None:
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem.keys() == {"type", "title", "status", "reason", "detail", "request_id"}
    assert problem["status"] == status
    assert detail in problem["detail"]
    assert problem["request_id"] == response.headers["X-Request-ID"]
