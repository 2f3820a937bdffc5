"""The reward service keeps to its OpenAPI document, whatever follows from that is sent to it."""

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks

from rewarder.heuristic import HeuristicReward
from rewarder.service import create_app

HERE = {"Host": "127.0.0.1"}
app = create_app(HeuristicReward())
api = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HERE)


@api.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_that_the_document_describes_is_a_server_error(case):
    answer = case.call(headers=HERE)
    # Whoever waits for a moment only is told that there is no score yet.
    assert answer.status_code < 500 or answer.json()["code"] == "late"
    case.validate_response(answer, checks=[checks.response_schema_conformance])


def test_every_route_is_described():
    paths = api.raw_schema["paths"]
    assert set(paths) == {
        "/score", "/score_batch", "/preference", "/health", "/ready", "/metrics",
        "/feedback", "/agreement", "/calibrate", "/swap",
    }  # fmt: skip
    bodies = [paths[path]["post"]["requestBody"] for path in ("/score", "/preference")]
    assert all(body["required"] for body in bodies)
