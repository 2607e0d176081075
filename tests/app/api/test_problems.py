import httpx

from tests.support.problems import assert_problem


def test_other_paths_and_methods_are_problems_too(client: httpx.Client) -> None:
    assert_problem(client.get("/nowhere"), 404, "GET /nowhere")
    response = client.get("/classify")
    assert_problem(response, 405, "GET /classify: this path takes POST")
    assert response.headers["Allow"] == "OPTIONS, POST"
