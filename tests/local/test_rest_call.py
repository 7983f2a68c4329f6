"""Functions through `/rest/v1/rpc`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from postgrest.exceptions import APIError
from supabase import AsyncClient

from tests.support.rest import Shop, open_shop


@pytest_asyncio.fixture
async def shop(database_url: str) -> AsyncGenerator[Shop]:
    async with open_shop(database_url) as opened:
        yield opened


@pytest_asyncio.fixture
async def client(shop: Shop) -> AsyncClient:
    return await shop.stack.client(shop.stack.service_key)


async def test_arguments_go_by_name_and_defaults_fill_the_rest(client: AsyncClient) -> None:
    assert (await client.rpc("add", {"a": 1}).execute()).data == 11
    assert (await client.rpc("add", {"b": 2, "a": 1}).execute()).data == 3
    assert (await client.rpc("add", {"b": 2, "a": 1}, get=True).execute()).data == 3
    assert (await client.rpc("labels", {"p_labels": ["a", "b c"]}).execute()).data == "a+b c"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [('[{"a":1,"b":2},{"a":5,"b":6}]', "application/json"), ("a,b\n1,2\n5,6\n", "text/csv")],
)
async def test_of_several_arguments_the_first_are_taken(shop: Shop, body: str, content_type: str) -> None:
    answer = await shop.service.post("rpc/add", content=body, headers={"Content-Type": content_type})
    named = await shop.service.post("rpc/add?columns=a", json=[{"a": 3, "b": 4, "c": 5}])

    assert (answer.json(), named.json()) == (3, 13)


async def test_an_answer_to_a_call_is_never_held_back(shop: Shop) -> None:
    answer = await shop.service.post("rpc/add", json={"a": 1}, headers={"Prefer": "return=minimal"})

    assert (answer.status_code, answer.json()) == (200, 11)


async def test_json_is_returned_as_the_database_writes_it(shop: Shop) -> None:
    batch = '[1.10, 12345678901234567890.12, {"}": "\\u00e9\\"}"}]'

    only = await shop.service.post("rpc/echo", content=f'{{"p_batch": {batch} }}')
    whole = await shop.service.post("rpc/whole", content=batch)
    twice = await shop.service.post("rpc/echo", content='{"p_batch":1,"p_batch":[2]}')
    as_null = await shop.service.post("rpc/echo", content='{"p_batch":null}')

    assert only.text == '[1.10, 12345678901234567890.12, {"}": "é\\"}"}]'
    assert whole.text == only.text
    assert twice.text == "[2]"
    assert as_null.text == "null"


async def test_a_single_unnamed_parameter_takes_the_whole_body(shop: Shop) -> None:
    answer = await shop.service.post("rpc/whole", json={"any": ["thing"]})

    assert answer.json() == {"any": ["thing"]}


async def test_overloads_without_names(shop: Shop) -> None:
    """Only what can take a body whole is there at all, and it gets it, by whatever name it was called."""
    await shop.execute("""
        create function public.kind(boolean) returns text language sql as $$ select 'boolean' $$;
        create function public.kind(text) returns text language sql as $$ select 'text ' || $1 $$;
        create function public.number(integer) returns integer language sql as 'select $1';
        create function public.perhaps() returns integer language sql as 'select 1';
        create function public.perhaps(text default '') returns text language sql as 'select $1';
        create function public.either(b text, a text) returns text language sql as 'select b';
        create function public.either(a text, b integer) returns text language sql as 'select a';
        grant execute on function public.kind(boolean), public.kind(text), public.number, public.perhaps(),
          public.perhaps(text), public.either(text, text), public.either(text, integer) to service_role
    """)

    whole = await shop.service.post("rpc/kind", json={"": True})
    missing = await shop.service.post("rpc/number", json={"": 1})
    several = await shop.service.post("rpc/perhaps", json={})
    ordered = await shop.service.post("rpc/either", json={"a": "x", "b": 1})

    assert whole.json() == 'text {"":true}'
    assert (missing.status_code, missing.json()["message"]) == (
        404,
        "Could not find the function public.number() in the schema cache",
    )
    assert several.json()["message"].endswith("between: public.perhaps(), public.perhaps( => text)")
    assert ordered.json()["message"].endswith(
        "between: public.either(a => text, b => integer), public.either(b => text, a => text)"
    )


async def test_a_large_batch_passes_unharmed(client: AsyncClient) -> None:
    batch = [{"id": number, "text": "x" * 100} for number in range(30_000)]

    assert (await client.rpc("echo", {"p_batch": batch}).execute()).data == batch


async def test_each_shape_of_result(shop: Shop, client: AsyncClient) -> None:
    void = await shop.service.post("rpc/nothing")
    scalars = await client.rpc("numbers", {"n": 3}).execute()
    row = await client.rpc("one_pet", {"p_id": 2}).execute()
    table = await client.rpc("sizes", {}).gt("amount", 1).execute()

    assert (void.status_code, void.content) == (204, b"")
    assert scalars.data == [1, 2, 3]
    assert row.data["name"] == "Tom"
    assert table.data == [{"size": "l", "amount": 2}]


async def test_a_set_of_rows_is_read_like_a_table(client: AsyncClient) -> None:
    answer = (
        await client.rpc("pets_of", {"p_owner": 1}, count="exact")
        .select("name", "owners(name)")
        .order("name")
        .limit(1)
        .execute()
    )
    one = await client.rpc("pets_of", {"p_owner": 2}).select("id").single().execute()
    head = await client.rpc("pets_of", {"p_owner": 1}, head=True, count="exact").execute()

    assert (answer.count, answer.data) == (2, [{"name": "Rex", "owners": {"name": "Ada"}}])
    assert one.data == {"id": 3}
    assert head.count == 2


async def test_a_set_has_at_most_a_thousand_elements(shop: Shop) -> None:
    answer = await shop.service.post("rpc/many", json={}, headers={"Prefer": "count=exact"})

    assert (answer.status_code, answer.headers["content-range"]) == (206, "0-999/1500")


async def test_a_call_that_may_only_read_cannot_write(shop: Shop) -> None:
    by_get = await shop.service.get("rpc/write_toy?p_title=x")
    stable = await shop.service.post("rpc/stable_write")
    by_post = await shop.service.post("rpc/write_toy", json={"p_title": "x"})

    assert (by_get.status_code, by_get.json()["code"]) == (405, "25006")
    assert (stable.status_code, stable.json()["code"]) == (405, "25006")
    assert (by_post.status_code, by_post.json()) == (200, 99)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "rpc/nope", {}, 404, "PGRST202"),
        ("POST", "rpc/add", {"c": 1}, 404, "PGRST202"),
        ("POST", "rpc/add", [1], 404, "PGRST202"),
        ("POST", "rpc/nothing", [1], 400, "PGRST102"),
        ("POST", "rpc/twice", {"a": 1}, 300, "PGRST203"),
        ("PATCH", "rpc/add", {}, 405, "PGRST101"),
        ("POST", "rpc/add", {"a": "x"}, 400, "22P02"),
        ("POST", "rpc/slow", {}, 500, "57014"),
        ("POST", "rpc/fail", {"p_code": "RUN02"}, 400, "RUN02"),
        ("POST", "rpc/fail", {"p_code": "P0001"}, 400, "P0001"),
        ("POST", "rpc/fail", {"p_code": "PT409"}, 409, "PT409"),
        ("POST", "rpc/fail", {"p_code": "PT40A"}, 500, "PT40A"),
        ("POST", "rpc/fail", {"p_code": "40001"}, 500, "40001"),
        ("POST", "rpc/fail", {"p_code": "28000"}, 403, "28000"),
        ("POST", "rpc/fail", {"p_code": "42501"}, 403, "42501"),
        ("POST", "rpc/fail", {"p_code": "53300"}, 503, "53300"),
    ],
)
async def test_what_a_call_raises_keeps_its_code(
    shop: Shop, method: str, path: str, body: object, status: int, code: str
) -> None:
    answer = await shop.service.request(method, path, json=body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["proxy-status"] == f"PostgREST; error={code}"


async def test_a_function_raises_with_detail_and_hint(client: AsyncClient) -> None:
    with pytest.raises(APIError) as raised:
        await client.rpc("fail", {"p_code": "RUN02"}).execute()

    assert raised.value.json() == {
        "code": "RUN02",
        "message": "it failed",
        "details": "the detail",
        "hint": "the hint",
    }


async def test_a_function_may_word_the_whole_answer(shop: Shop) -> None:
    refused = await shop.service.post("rpc/fail_as_json")
    answered = await shop.service.post("rpc/teapot")

    assert (refused.status_code, refused.headers["x-why"]) == (402, "money")
    assert refused.json() == {"code": "123", "message": "Payment Required", "details": "d", "hint": "h"}
    assert (answered.status_code, answered.headers["x-tea"], answered.json()) == (418, "green", "short and stout")


# What a function says about its answer; `raise` carries the same in its detail.
SAYS = """
create function public.say(p_status text, p_headers text) returns text language plpgsql as $$ begin
  perform set_config('response.status', p_status, true), set_config('response.headers', p_headers, true);
  return 'said';
end $$;
create function public.refuse(p_detail text) returns void language plpgsql as $$ begin
  raise sqlstate 'PGRST' using message = '{"code":"1","message":"m"}', detail = p_detail;
end $$;
grant execute on function public.say, public.refuse to service_role;
"""


async def test_a_function_may_set_several_cookies_and_any_text(shop: Shop) -> None:
    await shop.execute(SAYS)

    headers = '[{"Set-Cookie": "a=1"}, {"Set-Cookie": "b=2"}, {"X-Name": "Zoë €"}, {"Content-Type": "text/x"}]'
    answer = await shop.service.post("rpc/say", json={"p_status": "", "p_headers": headers})

    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert dict(answer.headers.raw)[b"x-name"].decode() == "Zoë €"
    assert answer.headers["content-type"] == "text/x"


@pytest.mark.parametrize(
    "header",
    ['{"X-A": 1}', '{"X-A": "a\\r\\nX-B: b"}', '{"X A": "a"}', '{"": "a"}', '{"X-É": "a"}'],
    ids=["no text", "second header", "blank in name", "no name", "letter in name"],
)
async def test_what_is_no_header_is_refused(shop: Shop, header: str) -> None:
    await shop.execute(SAYS)

    said = await shop.service.post("rpc/say", json={"p_status": "", "p_headers": f"[{header}]"})
    raised = await shop.service.post("rpc/refuse", json={"p_detail": f'{{"status": 400, "headers": {header}}}'})

    assert (said.status_code, said.json()["code"]) == (500, "PGRST111")
    assert (raised.status_code, raised.json()["code"]) == (500, "PGRST121")


@pytest.mark.parametrize("status", ["²²²", "99", "100", "600", "9" * 5000, "x"], ids=lambda status: status[:4])
async def test_what_is_no_final_status_is_refused(shop: Shop, status: str) -> None:
    await shop.execute(SAYS)

    answer = await shop.service.post("rpc/say", json={"p_status": status, "p_headers": ""})

    assert (answer.status_code, answer.json()["code"]) == (500, "PGRST112")


async def test_a_status_that_has_no_body_gets_none(shop: Shop) -> None:
    await shop.execute(SAYS)

    said = [await shop.service.post("rpc/say", json={"p_status": "204", "p_headers": ""}) for _ in range(2)]
    raised = await shop.service.post("rpc/refuse", json={"p_detail": '{"status": 304, "headers": {}}'})
    after = await shop.service.post("rpc/add", json={"a": 1})

    assert [(answer.status_code, answer.content) for answer in [*said, raised]] == [(204, b""), (204, b""), (304, b"")]
    assert after.json() == 11


async def test_a_function_sees_the_request(shop: Shop) -> None:
    answer = await shop.service.post(
        "rpc/seen",
        content=json.dumps({}),
        headers={"X-Agent": "007", "Cookie": "a=b", "Prefer": "timezone=Asia/Tokyo"},
    )
    seen = answer.json()

    assert seen["claims"]["role"] == seen["role"] == seen["setting"] == "service_role"
    assert (seen["method"], seen["path"], seen["agent"]) == ("POST", "/rpc/seen", "007")
    assert (seen["cookie"], seen["has_cookie_header"]) == ({"a": "b"}, False)
    assert (seen["read_only"], seen["timeout"]) == ("on", "8s")
    assert (seen["search_path"], seen["timezone"]) == ('"public", "public", "extensions"', "Asia/Tokyo")
