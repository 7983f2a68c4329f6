"""Embedding in every way that relations hang together, and what a request says that means none or several."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.database import TestServer
from tests.support.rest import Shop
from tests.support.rest_cases import by_id, open_museum

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def museum(database_server: TestServer, template_database: str) -> AsyncGenerator[Shop]:
    async with open_museum(database_server, template_database) as opened:
        yield opened


EMBEDS: dict[str, tuple[str, Any]] = {
    "by the names of two keys to one table": (
        "works?select=title,painter(name),restorer(name)&id=eq.1",
        [{"title": "Dawn", "painter": {"name": "Ada"}, "restorer": {"name": "Bela"}}],
    ),
    "by a column, and by a table with a column as hint": (
        "works?select=title,p:artist_id(name),r:artists!restorer_id(name)&id=eq.1",
        [{"title": "Dawn", "p": {"name": "Ada"}, "r": {"name": "Bela"}}],
    ),
    "one table twice under two names": (
        "artists?select=name,painted:works!painter(title),restored:works!restorer(title)&id=eq.2",
        [{"name": "Bela", "painted": [{"title": 'Noon, "late"'}], "restored": [{"title": "Dawn"}]}],
    ),
    "each of two with its own filter": (
        "artists?select=painted:works!painter(id),restored:works!restorer(id)&id=eq.1&painted.id=eq.2&restored.id=eq.9",
        [{"painted": [{"id": 2}], "restored": []}],
    ),
    "many to many through a chosen junction": (
        "works?select=title,rooms!hangings(name)&id=eq.1",
        [{"title": "Dawn", "rooms": [{"name": "Red"}]}],
    ),
    "many to many through a view of the junction": (
        "rooms?select=name,works!hanging_list(title)&id=eq.2",
        [{"name": "Blue", "works": [{"title": 'Noon, "late"'}]}],
    ),
    "the junction itself, its far side spread": (
        "rooms?select=name,hangings(wall,...works(title))&id=eq.2",
        [{"name": "Blue", "hangings": [{"wall": "N", "title": 'Noon, "late"'}]}],
    ),
    "one to one from both sides": (
        "labels?select=text,works(title,labels(text))&work_id=eq.1",
        [{"text": "Dawn, oil", "works": {"title": "Dawn", "labels": {"text": "Dawn, oil"}}}],
    ),
    "many spread, each column a list": (
        "artists?select=name,...works!painter(title,y:year)&order=id&works.order=title.desc",
        [
            {"name": "Ada", "title": ["Dusk", "Dawn"], "y": [1910, 1905]},
            {"name": "Bela", "title": ['Noon, "late"'], "y": [None]},
            {"name": "Cem", "title": [], "y": []},
        ],
    ),
    "many spread with all columns and one of what they belong to": (
        "rooms?select=id,...hangings(*,...works(title))&id=eq.1&hangings.order=work_id",
        [{"id": 1, "work_id": [1, 2], "room_id": [1, 1], "wall": ["N", "S"], "title": ["Dawn", "Dusk"]}],
    ),
    "many spread within many spread": (
        "artists?select=name,...works!painter(...hangings(wall))&id=lt.3&order=id&works.order=id",
        [{"name": "Ada", "wall": [["N"], ["S"]]}, {"name": "Bela", "wall": [["N"]]}],
    ),
    "many spread with objects": (
        "rooms?select=name,...hangings(works(title))&id=eq.2",
        [{"name": "Blue", "works": [{"title": 'Noon, "late"'}]}],
    ),
    "many spread, filtered": (
        "artists?select=name,...works!painter(title)&works.year=gt.1905&order=id",
        [{"name": "Ada", "title": ["Dusk"]}, {"name": "Bela", "title": []}, {"name": "Cem", "title": []}],
    ),
    "many spread of those that have any": (
        "artists?select=name,...works!painter!inner(title)&works.id=eq.3",
        [{"name": "Bela", "title": ['Noon, "late"']}],
    ),
    "many spread of those that have none": (
        "artists?select=name,...works!painter(title)&works=is.null",
        [{"name": "Cem", "title": []}],
    ),
    "a column that an embed is called by": (
        "works?select=id,artist_id(name)&artist_id=eq.2",
        [{"id": 3, "artist_id": {"name": "Bela"}}],
    ),
    "one to one that is not there": ("works?select=title,labels(text)&id=eq.2", [{"title": "Dusk", "labels": None}]),
    "itself: children by the table, parent by the column": (
        "places?select=name,places(name),parent_id(name)&id=eq.2",
        [{"name": "Land", "places": [{"name": "Town"}], "parent_id": {"name": "Earth"}}],
    ),
    "itself: children with a hint": (
        "places?select=name,children:places!parent_id(name)&id=eq.1&children.order=name",
        [{"name": "Earth", "children": [{"name": "Land"}, {"name": "Sea"}]}],
    ),
    "itself through a junction, by spreading": (
        "artists?select=name,follows!followed(...artists!follower(name))&id=eq.3",
        [{"name": "Cem", "follows": [{"name": "Ada"}, {"name": "Bela"}]}],
    ),
    "a key of two columns": (
        "houses?select=name,keepers!workplace(name)&order=code",
        [{"name": "Old", "keepers": []}, {"name": "New", "keepers": [{"name": "Kim"}]}],
    ),
    "from a view": (
        "work_list?select=title,painter(name),maker_id(name)&number=eq.1",
        [{"title": "Dawn", "painter": {"name": "Ada"}, "maker_id": {"name": "Ada"}}],
    ),
    "from a view of a view": (
        "short_list?select=title,artists(name),labels(text)&id=eq.1",
        [{"title": "DAWN", "artists": {"name": "Ada"}, "labels": {"text": "Dawn, oil"}}],
    ),
    "from a view to a view": (
        "artist_list?select=name,short_list(title)&id=eq.2",
        [{"name": "Bela", "short_list": [{"title": 'NOON, "LATE"'}]}],
    ),
    "from a view with groups and subqueries": (
        "crowded_rooms?select=name,works,visits(id)",
        [{"name": "Red", "works": 2, "visits": [{"id": 1}]}],
    ),
    "a view of a table that is not exposed": (
        "rooms?select=name,guards(name)&id=eq.1",
        [{"name": "Red", "guards": [{"name": "Gus"}]}],
    ),
    "from a partitioned table": ("visits?select=id,rooms(name)&id=eq.1", [{"id": 1, "rooms": {"name": "Red"}}]),
    "a computed relationship to one": (
        "works?select=title,maker(name)&id=in.(3,4)&order=id",
        [{"title": 'Noon, "late"', "maker": {"name": "Bela"}}, {"title": "night_50%", "maker": None}],
    ),
    "a computed relationship to one without setof": (
        "works?select=title,maker_alone(name)&id=eq.1",
        [{"title": "Dawn", "maker_alone": {"name": "Ada"}}],
    ),
    "a computed relationship to many": (
        "artists?select=name,oeuvre(title)&id=eq.1&oeuvre.order=title.desc",
        [{"name": "Ada", "oeuvre": [{"title": "Dusk"}, {"title": "Dawn"}]}],
    ),
    "a computed relationship whose filter filters its parents": (
        "artists?select=name,oeuvre!inner(title)&oeuvre.title=eq.Dusk",
        [{"name": "Ada", "oeuvre": [{"title": "Dusk"}]}],
    ),
    "a computed relationship within an embed": (
        "labels?select=works(maker(name))&work_id=eq.1",
        [{"works": {"maker": {"name": "Ada"}}}],
    ),
    "a computed relationship by the name of a table": (
        "places?select=name,rooms(name)&id=eq.1",
        [{"name": "Earth", "rooms": [{"name": "Red"}]}],
    ),
    "a computed column": ("works?select=shouted&shouted=eq.DAWN!&order=shouted", [{"shouted": "DAWN!"}]),
    "of the rows of a function": (
        "rpc/all_works?select=shouted,maker(name),rooms!hangings(name)&id=eq.1&shouted=like.D*",
        [{"shouted": "DAWN!", "maker": {"name": "Ada"}, "rooms": [{"name": "Red"}]}],
    ),
    "of the one row of a function": (
        "rpc/first_work?select=title,shouted,painter(name)",
        {"title": "Dawn", "shouted": "DAWN!", "painter": {"name": "Ada"}},
    ),
    "spread, by three dots or two": (
        "works?select=id,...painter(by:name),..labels(text)&id=eq.2",
        [{"id": 2, "by": "Ada", "text": None}],
    ),
    "spread in spread": (
        "labels?select=text,...works(title,...painter(by:name))&work_id=eq.1",
        [{"text": "Dawn, oil", "title": "Dawn", "by": "Ada"}],
    ),
    "nothing of it, only those that have it": (
        "works?select=id,labels()&labels=not.is.null&order=id",
        [{"id": 1}, {"id": 3}],
    ),
    "nothing of it, only those without it": ("works?select=id,painter()&painter=is.null", [{"id": 4}]),
    "nothing in nothing": ("works?select=id,painter(oeuvre())&id=eq.1", [{"id": 1}]),
    "its absence in a tree of conditions": (
        "artists?select=id,oeuvre()&or=(oeuvre.is.null,id.eq.1)&order=id",
        [{"id": 1}, {"id": 3}],
    ),
    "an inner embed in an inner embed": (
        "artists?select=id,oeuvre!inner(id,labels!inner())&order=id",
        [{"id": 1, "oeuvre": [{"id": 1}]}, {"id": 2, "oeuvre": [{"id": 3}]}],
    ),
    "an inner embed in a left one": (
        "artists?select=id,oeuvre(id,labels!inner())&id=in.(1,3)&order=id",
        [{"id": 1, "oeuvre": [{"id": 1}]}, {"id": 3, "oeuvre": []}],
    ),
    "its conditions, order and page": (
        "artists?select=o:oeuvre(id)&o.or=(id.eq.1,id.eq.2)&o.order=id.desc&o.limit=1&o.offset=1&id=eq.1",
        [{"o": [{"id": 1}]}],
    ),
    "conditions two levels down": (
        "artists?select=oeuvre(id,labels(text))&oeuvre.labels.text=like.*oil*&id=eq.1",
        [{"oeuvre": [{"id": 1, "labels": {"text": "Dawn, oil"}}, {"id": 2, "labels": None}]}],
    ),
    "parents ordered by it": (
        "works?select=id,p:painter()&order=p(name).desc.nullslast,id.desc",
        [{"id": 3}, {"id": 2}, {"id": 1}, {"id": 4}],
    ),
    "parents ordered by what is computed": (
        "works?select=id,maker()&order=maker(notes->born->year).asc.nullslast,id",
        [{"id": 1}, {"id": 2}, {"id": 3}, {"id": 4}],
    ),
}


@pytest.mark.parametrize("case", by_id(EMBEDS))
async def test_an_embed_is_what_postgrest_makes_of_it(museum: Shop, case: tuple[str, Any]) -> None:
    path, rows = case

    answer = await museum.service.get(path)

    assert (answer.status_code, answer.json()) == (200, rows)


AMBIGUOUS = "Could not embed because more than one relationship was found for"
REFUSALS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "several keys": (
        "works?select=artists(name)",
        300,
        {
            "code": "PGRST201",
            "message": f"{AMBIGUOUS} 'works' and 'artists'",
            "details": [
                {
                    "cardinality": "many-to-one",
                    "embedding": "works with artists",
                    "relationship": "painter using works(artist_id) and artists(id)",
                },
                {
                    "cardinality": "many-to-one",
                    "embedding": "works with artists",
                    "relationship": "restorer using works(restorer_id) and artists(id)",
                },
            ],
            "hint": "Try changing 'artists' to one of the following: 'artists!painter', 'artists!restorer'. "
            "Find the desired relationship in the 'details' key.",
        },
    ),
    "several junctions": (
        "rooms?select=works(title)",
        300,
        {
            "code": "PGRST201",
            "message": f"{AMBIGUOUS} 'rooms' and 'works'",
            "details": [
                {
                    "cardinality": "many-to-many",
                    "embedding": "rooms with works",
                    "relationship": f"{junction} using hangings_room_id_fkey(room_id) and "
                    "hangings_work_id_fkey(work_id)",
                }
                for junction in ("hanging_list", "hangings")
            ],
            "hint": "Try changing 'works' to one of the following: 'works!hanging_list', 'works!hangings'. "
            "Find the desired relationship in the 'details' key.",
        },
    ),
    "no such relation": (
        "works?select=artist(name)",
        400,
        {
            "code": "PGRST200",
            "message": "Could not find a relationship between 'works' and 'artist' in the schema cache",
            "details": "Searched for a foreign key relationship between 'works' and 'artist' in the schema 'public', "
            "but no matches were found.",
            "hint": "Perhaps you meant 'artists' instead of 'artist'.",
        },
    ),
    "no such hint": (
        "works?select=rooms!space(name)",
        400,
        {
            "code": "PGRST200",
            "message": "Could not find a relationship between 'works' and 'rooms' in the schema cache",
            "details": "Searched for a foreign key relationship between 'works' and 'rooms' using the hint 'space' "
            "in the schema 'public', but no matches were found.",
            "hint": None,
        },
    ),
    "itself, by the name of its key": (
        "places?select=places!places_parent_id_fkey(name)",
        400,
        {
            "code": "PGRST200",
            "message": "Could not find a relationship between 'places' and 'places' in the schema cache",
            "details": "Searched for a foreign key relationship between 'places' and 'places' using the hint "
            "'places_parent_id_fkey' in the schema 'public', but no matches were found.",
            "hint": None,
        },
    ),
    "two embeds of one name": (
        "works?select=artists!painter(name),artists!restorer(name)",
        400,
        {
            "code": "42712",
            "message": 'table name "works_artists_1" specified more than once',
            "details": None,
            "hint": None,
        },
    ),
    "two embeds of one name in another": (
        "labels?select=works(by:artists!painter(name),by:artists!restorer(name))",
        400,
        {
            "code": "42712",
            "message": 'table name "works_by_2" specified more than once',
            "details": None,
            "hint": None,
        },
    ),
    "a filter on what is not embedded": (
        "artists?select=id&oeuvre.id=eq.3",
        400,
        {
            "code": "PGRST108",
            "message": "'oeuvre' is not an embedded resource in this request",
            "details": None,
            "hint": "Verify that 'oeuvre' is included in the 'select' query parameter.",
        },
    ),
    "an order by what is not embedded": (
        "works?select=id&order=painter(name)",
        400,
        {
            "code": "PGRST108",
            "message": "'painter' is not an embedded resource in this request",
            "details": None,
            "hint": "Verify that 'painter' is included in the 'select' query parameter.",
        },
    ),
    "an order by many": (
        "artists?select=id,oeuvre(id)&order=oeuvre(id)",
        400,
        {
            "code": "PGRST118",
            "message": "A related order on 'oeuvre' is not possible",
            "details": "'artists' and 'oeuvre' do not form a many-to-one or one-to-one relationship",
            "hint": None,
        },
    ),
}


@pytest.mark.parametrize("case", by_id(REFUSALS))
async def test_an_embed_that_cannot_be_is_refused_in_postgrests_words(
    museum: Shop, case: tuple[str, int, dict[str, Any]]
) -> None:
    path, status, body = case

    answer = await museum.service.get(path)

    assert (answer.status_code, answer.json()) == (status, body)
    assert answer.headers["proxy-status"] == f"PostgREST; error={body['code']}"


async def test_supabase_py_reads_computed_relationships_through_views(museum: Shop) -> None:
    client = await museum.stack.client(museum.stack.service_key)

    answer = (
        await client.table("short_list")
        .select("title, artists!inner(name, oeuvre(title))", count="exact")
        .eq("artists.name", "Ada")
        .order("id", foreign_table="artists.oeuvre", desc=True)
        .order("id")
        .limit(1)
        .execute()
    )

    assert answer.data == [
        {"title": "DAWN", "artists": {"name": "Ada", "oeuvre": [{"title": "Dusk"}, {"title": "Dawn"}]}}
    ]
    assert answer.count == 2


async def test_columns_of_views_are_traced_whatever_the_view_is_like(museum: Shop) -> None:
    await museum.execute("""
        create view public.joined as
          select id, "odd {name)", work_id from (select id, name as "odd {name)" from public.rooms) r
          left join (select room_id as id, work_id from public.hangings) h using (id);
        create view public.united as select id, artist_id from public.works union all select 9, 1;
        create view public.walked as
          with recursive up as (select id, parent_id from public.places union select p.id, p.parent_id
            from public.places p join up on up.parent_id = p.id)
          select s.*, (select count(*) from (select id from public.works) w) as n from public.places s
          where id in (select id from up);
        create materialized view public.kept as select id, artist_id, restorer_id from public.works;
        grant select on public.joined, public.united, public.walked, public.kept to service_role
    """)

    joined = await museum.service.get('joined?select="odd {name)",works!work_id(title)&work_id=eq.1')
    united = await museum.service.get("united?select=id,artists(name)")
    walked = await museum.service.get("walked?select=name,walked(name)&id=eq.2")
    kept = await museum.service.get("kept?select=painter(name),labels(text)&id=eq.1")

    assert joined.json() == [{"odd {name)": "Red", "works": {"title": "Dawn"}}]
    assert (united.status_code, united.json()["code"]) == (400, "PGRST200")
    assert walked.json() == [{"name": "Land", "walked": [{"name": "Town"}]}]
    assert kept.json() == [{"painter": {"name": "Ada"}, "labels": {"text": "Dawn, oil"}}]
