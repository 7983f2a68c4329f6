"""Conditions that only PostgreSQL can decide, put to it: one query for all the questions of a batch.

A question that PostgreSQL cannot answer, because a row's value no longer is of the type that it was asked for or the
answer takes too long, fails alone: the others are answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import LiteralString, cast

import psycopg
from psycopg import sql

from local.realtime.database import SEARCH_PATH, is_away
from local.services import Pool

# The log's texts were written with these formats. A pattern may take long; the others must not wait for it.
_SETTINGS: LiteralString = f"""
select set_config('search_path', '{SEARCH_PATH}', true), set_config('timezone', 'UTC', true),
       set_config('datestyle', 'ISO', true), set_config('statement_timeout', '1000', true)
"""


@dataclass(frozen=True, slots=True)
class Question:
    """A condition about `value`, a text, in SQL of our own composing. Equal questions are one."""

    expression: str


Asked = tuple[Question, str | None]
Answers = Mapping[Asked, bool]


class Judge:
    """Asks as the administrator, as Supabase's Realtime does: a filter says nothing about who may see the row."""

    def __init__(self, admin_pool: Pool) -> None:
        self._pool = admin_pool

    async def texts(self, values: sql.Composed) -> list[str | None]:
        """The values of a set-returning expression, in the texts that the log would have them in.

        Raises:
            psycopg.Error: it has none; an OperationalError if the database is away.
        """
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_SETTINGS)
            cursor = await connection.execute(sql.SQL("select value::text from {} as t(value)").format(values))
            return [row[0] for row in await cursor.fetchall()]

    async def ask(self, asked: Collection[Asked]) -> Answers:
        """Answer them all.

        Raises:
            psycopg.Error: one cannot be answered; an OperationalError if the database is away.
        """
        by_question: dict[Question, list[str | None]] = defaultdict(list)
        for question, value in asked:
            by_question[question].append(value)
        return await self._ask(by_question)

    async def ask_each(self, asked: AbstractSet[Asked]) -> tuple[Answers, dict[Question, psycopg.Error]]:
        """Answer what can be answered, and say what cannot.

        Raises:
            psycopg.OperationalError: the database is away.
        """
        if not asked:
            return {}, {}
        try:
            return await self.ask(asked), {}
        except psycopg.Error as exc:
            if is_away(exc):
                raise
        answers: dict[Asked, bool] = {}
        failed: dict[Question, psycopg.Error] = {}
        for question in {question for question, _ in asked}:
            try:
                answers |= await self.ask([one for one in asked if one[0] == question])
            except psycopg.Error as exc:
                if is_away(exc):
                    raise
                failed[question] = exc
        return answers, failed

    async def _ask(self, by_question: Mapping[Question, Sequence[str | None]]) -> Answers:
        columns = [
            sql.SQL(
                "array(select coalesce({}, false) from unnest(%s::text[]) with ordinality as t(value, position)"
                " order by position)"
            ).format(_expression(question))
            for question in by_question
        ]
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_SETTINGS)
            cursor = await connection.execute(
                sql.SQL("select {}").format(sql.SQL(", ").join(columns)),
                [list(values) for values in by_question.values()],
            )
            row = cast("Sequence[list[bool]]", await cursor.fetchone())
        return {
            (question, value): answer
            for (question, values), answers in zip(by_question.items(), row, strict=True)
            for value, answer in zip(values, answers, strict=True)
        }


def _expression(question: Question) -> sql.SQL:
    # In a statement with parameters a percent sign is written twice.
    text = question.expression.replace("%", "%%")
    return sql.SQL(text)  # pyright: ignore[reportArgumentType] - composed and quoted before
