"""Whatever a model, a tool or a machine does, an agent's run recovers or fails with an error that a person can read."""

from __future__ import annotations

import pytest

from shared.engines.agent.engine import AgentEngine
from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.models import OneModel
from shared.errors import UpstreamBusy, UpstreamRefused
from shared.runs.models import StepError
from tests.engines.drive import Drive
from tests.engines.scripts import Script, calls, driven, finish, phase, plan, router, says, silence, words

ECHO = calls(("echo", {"text": "a"}))
UNKNOWN = StepError("outcome_unknown", "Whether send took effect is not known")


@pytest.mark.parametrize(
    "garbage", ["", "   ", "no plan", "[1, 2]", "{", '{"goal": "x"}', '{"goal": 1, "phases": [3]}']
)
async def test_a_planner_that_writes_garbage_is_told_and_may_repair_it(garbage: str) -> None:
    drive, model = driven(words(garbage), plan(), finish())

    await drive.finish()

    assert drive.keys == ["plan.1", "plan.2", "turn.1"]
    assert "cannot be used" in model.requests[1].messages[-1].text
    assert len(drive.rows["plans"]) == 1


async def test_a_planner_is_told_all_problems_of_a_plan_at_once_and_sees_what_it_wrote() -> None:
    bad = plan(phase("a", tools=["teleport"]), phase("a", after=["b"]))
    drive, model = driven(bad, plan(), finish())

    await drive.finish()

    told = model.requests[1].messages[-1].text
    assert "The phase id 'a' is used more than once." in told
    assert "unknown tool 'teleport'" in told
    assert "depends on 'b', which is no phase" in told
    assert model.requests[1].messages[-2].text == bad.text


async def test_a_planner_that_never_writes_a_plan_fails_the_run() -> None:
    drive, _ = driven(words("I would rather not plan."), for_ever=True)

    error = await drive.fail()

    assert error.code == "plan_invalid"
    assert error.message == (
        "The model wrote no usable plan in 3 tries. Of the last one: The answer is not one JSON object."
    )
    assert drive.keys == ["plan.1", "plan.2", "plan.3"]
    assert drive.lines("error") == [error.message]


async def test_a_plan_that_is_cut_off_is_asked_for_again_shorter() -> None:
    drive, model = driven(words('{"goal": "x", "pha', stop="max_tokens"), plan(), finish())

    await drive.finish()

    assert "cut off after 8192 tokens" in model.requests[1].messages[-1].text


async def test_a_plan_in_a_code_fence_is_a_plan() -> None:
    drive, _ = driven(words(f"```json\n{plan().text}\n```"), finish())

    await drive.finish()

    assert drive.keys == ["plan.1", "turn.1"]


async def test_a_model_that_refuses_to_plan_fails_the_run() -> None:
    drive, _ = driven(words("No.", stop="refusal"))

    assert (await drive.fail()).code == "model_refused"


async def test_a_model_that_refuses_in_the_middle_fails_the_run() -> None:
    drive, _ = driven(plan(), ECHO, words("No more.", stop="refusal"))

    assert (await drive.fail()).code == "model_refused"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("teleport", {}), "There is no tool 'teleport' in this phase. Its tools are: echo."),
        (("send", {"text": "a"}), "There is no tool 'send' in this phase."),
        (("", {}), "There is no tool '' in this phase."),
        (("echo", {"txt": "a"}), "The arguments of echo are wrong"),
        (("echo", {"text": 3}), "The arguments of echo are wrong"),
        (("echo", '{"text": "a'), "The arguments of echo are not a JSON object"),
        (("echo", "[1]"), "The arguments of echo are not a JSON object"),
        (("finish_phase", {}), "The arguments of 'finish_phase' are wrong: summary: Field required"),
        (("finish_phase", {"summary": "  ", "success": True}), "The arguments of 'finish_phase' are wrong: summary"),
        (("finish_phase", {"summary": "x", "success": "yes"}), "The arguments of 'finish_phase' are wrong: success"),
        (("finish_phase", "done"), "The arguments of 'finish_phase' are not a JSON object."),
        (("ask_user", {"question": ""}), "The arguments of 'ask_user' are wrong: question"),
        (("ask_user", {"question": "x", "options": "y"}), "The arguments of 'ask_user' are wrong: options"),
        (("replan", {"reason": None}), "The arguments of 'replan' are wrong: reason"),
    ],
)
async def test_a_wrong_call_is_explained_to_the_model_without_a_step(call: tuple[str, object], told: str) -> None:
    drive, model = driven(plan(), calls(call), finish())

    await drive.finish()

    result = model.requests[2].messages[-1].blocks[0]
    assert result.is_error
    assert told in result.content
    assert drive.keys == ["plan.1", "turn.1", "turn.2"]


async def test_good_calls_beside_a_wrong_one_are_performed() -> None:
    drive, model = driven(plan(), calls(("teleport", {}), ("echo", {"text": "a"})), finish())

    await drive.finish()

    assert [block.is_error for block in model.requests[2].messages[-1].blocks] == [True, False]
    assert drive.keys == ["plan.1", "turn.1", "call.1.1", "turn.2"]


async def test_a_model_that_only_makes_mistakes_fails_the_run() -> None:
    drive, _ = driven(plan(), calls(("teleport", {})), for_ever=True)

    error = await drive.fail()

    assert error.code == "model_confused"
    assert "Nothing could be used in 6 answers" in error.message
    assert "There is no tool 'teleport'" in error.message


async def test_mistakes_with_good_calls_between_them_are_forgiven() -> None:
    wrong = calls(("teleport", {}))
    drive, _ = driven(plan(), *[wrong] * 5, ECHO, *[wrong] * 5, finish())

    await drive.finish()


async def test_an_empty_answer_is_met_with_a_reminder() -> None:
    drive, model = driven(plan(), silence(), words("  "), finish())

    await drive.finish()

    assert "empty" in model.requests[2].messages[-1].text
    assert "empty" in model.requests[3].messages[-1].text


async def test_a_model_that_says_nothing_three_times_fails_the_run() -> None:
    drive, _ = driven(plan(), silence(), for_ever=True)

    error = await drive.fail()

    assert (error.code, error.message) == ("model_silent", "The model gave 3 empty answers in a row.")


async def test_calls_of_an_answer_that_was_cut_off_are_not_performed() -> None:
    drive, model = driven(plan(), calls(("echo", {"text": "a"}), stop="max_tokens"), finish())

    await drive.finish()

    assert drive.keys == ["plan.1", "turn.1", "turn.2"]
    assert "cut off" in model.requests[2].messages[-1].blocks[0].content


async def test_words_that_were_cut_off_are_no_summary() -> None:
    drive, model = driven(plan(), words("I think", stop="max_tokens"), words("and so", stop="max_tokens"), finish())

    await drive.finish()

    assert "cut off" in model.requests[3].messages[-1].text


async def test_calls_with_the_same_id_keep_their_own_results() -> None:
    twice = says(*ECHO.blocks, *calls(("echo", {"text": "b"})).blocks, stop="tool_calls")
    drive, model = driven(plan(), twice, finish())

    await drive.finish()

    blocks = model.requests[2].messages[-1].blocks
    assert [(block.tool_call_id, block.content.split("\n")[1]) for block in blocks] == [
        ("id_0", "echo: a"),
        ("call_2_1", "echo: b"),
    ]


async def test_more_calls_than_allowed_are_refused_and_a_flood_is_dropped() -> None:
    drive, model = driven(plan(), calls(*[("echo", {"text": "a"})] * 500), finish())

    await drive.finish()

    assert [block.is_error for block in model.requests[2].messages[-1].blocks] == [False] * 8 + [True] * 24


async def test_text_that_cannot_be_stored_is_the_same_live_and_recovered() -> None:
    drive, _ = driven(plan(goal="a\x00b"), calls(("echo", {"text": "a\x00b"}), text="c\x00d \ud800"), finish("e\x00f"))

    end = await drive.finish()

    assert end.output["summary"] == "e\ufffdf"
    assert drive.said("assistant")[0]["text"] == "c\ufffdd \ufffd"
    assert drive.rows["plans"][0]["goal"] == "a\ufffdb"


async def test_arguments_of_any_depth_do_not_harm_the_run() -> None:
    deep = '{"text": ' + "[" * 200 + "]" * 200 + "}"
    drive, model = driven(plan(), calls(("echo", deep)), finish())

    await drive.finish()

    assert model.requests[2].messages[-1].blocks[0].is_error


async def test_a_phase_is_not_finished_while_a_call_of_the_same_answer_failed() -> None:
    done = ("finish_phase", {"summary": "done", "success": True})
    drive, model = driven(
        plan(phase("greet", tools=["broken"])), calls(("broken", {"text": "a"}), done), finish("It is broken.")
    )

    end = await drive.finish()

    assert [block.is_error for block in model.requests[2].messages[-1].blocks] == [True, True]
    assert end.output["summary"] == "It is broken."


async def test_a_phase_is_not_finished_before_the_user_has_answered() -> None:
    done = ("finish_phase", {"summary": "done", "success": True})
    drive, model = driven(
        plan(), calls(done, ("ask_user", {"question": "Sure?"})), finish("No."), answer=lambda _: "no"
    )

    end = await drive.finish()

    assert [block.is_error for block in model.requests[2].messages[-1].blocks] == [True, False]
    assert end.output["summary"] == "No."


async def test_only_one_question_is_asked_at_a_time() -> None:
    both = calls(("ask_user", {"question": "One?"}), ("ask_user", {"question": "Two?"}))
    drive, _ = driven(plan(), both, finish(), answer=lambda _: "yes")

    await drive.finish()

    assert [request.prompt for request in drive.requests] == ["One?"]


async def test_a_tool_that_fails_is_told_to_the_model_and_logged_once() -> None:
    drive, model = driven(plan(phase("greet", tools=["broken"])), calls(("broken", {"text": "a"})), finish())

    await drive.finish()

    result = model.requests[2].messages[-1].blocks[0]
    assert (result.is_error, result.content) == (True, "The service behind it is gone.")
    assert drive.lines("tool_error") == ["broken failed: The service behind it is gone."]


async def test_a_tool_that_reports_an_error_is_logged_as_one() -> None:
    drive, model = driven(plan(phase("greet", tools=["files"])), calls(("files", {})), finish())

    await drive.finish()

    assert model.requests[2].messages[-1].blocks[0].is_error
    assert drive.lines("tool_error") == ["files reported an error"]


async def test_an_interrupted_call_with_effects_is_put_to_a_person_before_anything_else() -> None:
    drive, model = driven(
        plan(phase("greet", tools=["send"])),
        calls(("send", {"text": "a"})),
        finish(),
        broken={"call.1.0": UNKNOWN},
        answer=lambda request: request.options[1],
    )

    await drive.finish()

    assert drive.keys == ["plan.1", "turn.1", "call.1.0", "clarify.1.0", "turn.2"]
    assert [(request.kind, "'send'" in request.prompt) for request in drive.requests] == [("approval", True)]
    assert model.requests[2].messages[-1].blocks[0].content.endswith("said: It did not take effect")


async def test_a_clarification_starts_while_other_calls_are_still_running() -> None:
    drive, _ = driven(
        plan(phase("greet", tools=["send", "echo"])),
        calls(("send", {"text": "a"}), ("echo", {"text": "b"})),
        finish(),
        broken={"call.1.0": UNKNOWN},
        answer=lambda request: request.options[0],
    )

    await drive.finish()

    assert drive.keys == ["plan.1", "turn.1", "call.1.0", "call.1.1", "clarify.1.0", "turn.2"]
    assert drive.step("clarify.1.0").finished_revision > drive.step("call.1.1").finished_revision


async def test_a_person_who_never_answers_is_an_error_to_the_model() -> None:
    gone = StepError("request_cancelled", "The question was withdrawn.")
    drive, model = driven(plan(), calls(("ask_user", {"question": "Hm?"})), finish(), broken={"ask.1.0": gone})

    await drive.finish()

    result = model.requests[2].messages[-1].blocks[0]
    assert (result.is_error, result.content) == (True, "The question was withdrawn.")


@pytest.mark.parametrize(
    ("error", "code"),
    [(UpstreamRefused("The key is wrong."), "upstream_refused"), (UpstreamBusy("Too busy."), "upstream_busy")],
)
async def test_a_model_that_cannot_be_asked_fails_the_run_with_its_error(error: Exception, code: str) -> None:
    planning, _ = driven(error)
    working, _ = driven(plan(), error)

    assert (await planning.fail()).code == code
    assert (await working.fail()).code == code


async def test_phases_that_keep_failing_end_the_run() -> None:
    failed = finish("It is locked.", success=False)
    drive, _ = driven(plan(), failed, plan(), failed, plan(), failed)

    error = await drive.fail()

    assert error.code == "replans_spent"
    assert error.message == "The phase failed: It is locked. There were 2 new plans already."


async def test_a_new_plan_has_repairs_of_its_own() -> None:
    bad = words("no plan")
    drive, _ = driven(bad, bad, plan(), finish("x", success=False), bad, bad, plan(), finish())

    await drive.finish()


async def test_a_phase_that_never_ends_ends_the_run() -> None:
    drive, _ = driven(plan(), ECHO, for_ever=True, limits=AgentLimits(turns_per_phase=4))

    error = await drive.fail()

    assert (error.code, error.message) == (
        "turns_spent",
        "The phase 'Title of greet' was not finished in 4 answers.",
    )


@pytest.mark.parametrize("given", [{}, {"prompt": None}, {"prompt": "  "}, {"prompt": 3}])
async def test_a_run_without_a_prompt_fails_before_any_step(given: dict[str, None]) -> None:
    drive = Drive(AgentEngine(OneModel(Script([])), router()), given)

    assert (await drive.fail()).code == "invalid_input"
    assert drive.keys == []


async def test_a_tool_that_is_gone_after_a_deploy_is_told_to_the_model() -> None:
    drive, _ = driven(plan(phase("greet", tools=["echo", "send"])), calls(("echo", {"text": "a"})))
    await drive.steps(4)
    model = Script([finish("Done without it.")])

    drive.engine = AgentEngine(OneModel(model), type(router())([]))
    end = await drive.finish()

    assert "There is no tool `echo`" in model.requests[0].messages[-1].blocks[0].content
    assert [tool.name for tool in model.requests[0].tools] == ["finish_phase", "ask_user", "replan"]
    assert end.output["summary"] == "Done without it."


async def test_a_conversation_that_grows_too_long_loses_its_oldest_bulk_only() -> None:
    long = calls(("echo", {"text": "x" * 6_000}))
    drive, model = driven(plan(), *[long] * 10, finish(), limits=AgentLimits(conversation_characters=60_000))

    await drive.finish()

    sizes = [request.input_characters for request in model.requests[1:]]
    assert max(sizes) < 80_000
    last = model.requests[-1].messages
    assert last[3].blocks[0].content == "[left out to save space]"
    assert "x" * 6_000 in last[-1].blocks[0].content
    assert len(last) == 2 + 2 * 10
