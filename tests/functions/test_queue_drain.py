"""queue-drain performs what is due with the service key, and tallies it."""

from __future__ import annotations

import pytest

from shared.engines import registry
from shared.engines.agent.engine import AgentEngine
from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.models import OneModel
from shared.llm.registry import model_named
from shared.tools.builtin import builtin_router
from tests.functions.visitor import PROMPT, Visitor


@pytest.fixture
def recorded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's recorded conversation, whatever the machine is set up for."""
    monkeypatch.setenv("RUNBASE_LLM", "scripted:demo")


async def test_an_empty_queue_is_drained_at_once(service: Visitor):
    response = await service.post("queue-drain")

    assert (response.status_code, response.json()) == (200, {"claimed": 0, "left": {}, "swept": 0})


async def test_a_run_goes_from_prompt_to_result_in_a_drain(owner: Visitor, service: Visitor, recorded_model: None):
    run_id = (await owner.create(autostart=True))["run_id"]

    response = await service.post("queue-drain", {"max_seconds": 200})

    assert response.status_code == 200, response.text
    assert response.json()["left"] == {"completed": 1}
    shown = (await owner.get("agent-status", run_id=run_id, include="plan,artifacts,steps")).json()
    assert shown["run"]["status"] == "completed"
    assert shown["run"]["input"] == {"prompt": PROMPT}
    assert shown["plan"]["items"]
    assert shown["artifacts"]["items"]


async def test_a_step_that_no_drain_has_time_for_fails_its_run(
    owner: Visitor, service: Visitor, monkeypatch: pytest.MonkeyPatch
):
    """Given back, the run would wander from drain to drain for ever."""
    patient = AgentEngine(OneModel(model_named("scripted:demo", {})), builtin_router(), AgentLimits(model_seconds=900))
    monkeypatch.setattr(registry, "engines_from_env", lambda _env: {"agent": patient})
    run_id = (await owner.create(autostart=True))["run_id"]

    response = await service.post("queue-drain")

    assert response.json()["left"] == {"failed": 1}
    assert (await owner.run(run_id))["error"]["code"] == "step_too_long"


async def test_a_drain_too_short_for_a_model_call_is_refused(service: Visitor):
    response = await service.post("queue-drain", {"max_seconds": 149})

    assert (response.status_code, response.json()["code"]) == (400, "invalid_input")
    assert response.json()["message"] == (
        "max_seconds: must be at least 150, because one model step of an agent may take 130; "
        "a shorter drain would only claim runs and give them back"
    )


@pytest.mark.parametrize(
    "body", [{"max_seconds": 0}, {"max_seconds": 871}, {"max_seconds": "10"}, {"limit": 0}, {"limit": 101}, {"x": 1}]
)
async def test_limits_out_of_bounds_are_refused_by_name(service: Visitor, body: dict[str, object]):
    response = await service.post("queue-drain", body)

    assert response.status_code == 400
    assert response.json()["message"].startswith(f"{next(iter(body))}: ")


async def test_the_legacy_service_key_drains_too(http, stack):
    headers = {"Authorization": f"Bearer {stack.keys.service_role_key}"}

    assert (await http.post("/functions/v1/queue-drain", headers=headers)).status_code == 200
