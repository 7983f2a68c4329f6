"""How far an agent may go. Every loop of the engine has its end here, so no model can keep a run alive for ever."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """Bounds of one run.

    Attributes:
        phases: Phases of one plan.
        plan_repairs: Times a planner may correct one invalid plan.
        replans: New plans after the first, asked for by a failed phase or by the model.
        turns_per_phase: Model calls in one phase.
        calls_per_turn: Tool calls of one model answer that are performed; more are refused.
        silent_answers: Empty answers in a row that are met with a reminder.
        mistakes: Answers in a row of which nothing could be used.
        output_tokens: What one model call may write.
        model_seconds: One model call, with the provider's own repeats.
        result_characters: What the model sees of one tool's result.
        conversation_characters: One phase's conversation; above it the oldest tool results are left out.
        text_characters: A summary, a reason or a question.
    """

    phases: int = 12
    plan_repairs: int = 2
    replans: int = 2
    turns_per_phase: int = 30
    calls_per_turn: int = 8
    silent_answers: int = 2
    mistakes: int = 5
    output_tokens: int = 8192
    model_seconds: float = 120.0
    result_characters: int = 16_000
    conversation_characters: int = 240_000
    text_characters: int = 4_000
