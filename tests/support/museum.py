"""A museum for `/rest/v1`: every way in which relations hang together, and functions and types of every kind."""

from __future__ import annotations

MUSEUM = """
create schema hidden;
create table public.artists (id integer primary key, name text not null, notes jsonb not null default '{}');
create table public.works (
  id integer primary key,
  title text not null,
  artist_id integer constraint painter references public.artists (id),
  restorer_id integer constraint restorer references public.artists (id),
  year integer,
  price numeric(8, 2),
  tags text[] not null default '{}',
  shown int4range,
  words tsvector,
  data json not null default '{}'
);
create table public.labels (
  work_id integer primary key references public.works (id),
  text text not null default 'untitled'
);
create table public.rooms (id integer primary key, name text not null);
create table public.hangings (
  work_id integer references public.works (id),
  room_id integer references public.rooms (id),
  wall text,
  primary key (work_id, room_id)
);
create table public.places (
  id integer primary key,
  name text not null,
  parent_id integer references public.places (id)
);
create table public.houses (city text, code integer, name text, primary key (city, code));
create table public.keepers (
  id integer primary key,
  name text not null,
  city text,
  code integer,
  constraint workplace foreign key (city, code) references public.houses (city, code)
);
create table public.follows (
  follower integer references public.artists (id),
  followed integer references public.artists (id),
  primary key (follower, followed)
);
create table public.visits (
  id integer not null,
  day date not null,
  room_id integer references public.rooms (id),
  primary key (id, day)
) partition by range (day);
create table public.visits_2025 partition of public.visits for values from ('2025-01-01') to ('2026-01-01');
create table public."Odd, (name)" (":col:" integer primary key, "a.b" text, "with space" text, "dash-ed" text);
create table hidden.guards (id integer primary key, name text, room_id integer references public.rooms (id));

create domain public.words as tsvector;
create domain public.indexed as public.words;
create table public.notices (id integer primary key default 7, said public.indexed);
create table public.drafts (text text default 'blank');
create domain public.mark as integer default 5;
create table public.marks (id integer primary key, mark public.mark, own public.mark default 6, kept json);

create view public.work_list as select id as number, title, artist_id as maker_id, restorer_id from public.works;
create view public.short_list as select number as id, upper(title) as title, maker_id from public.work_list;
create view public.artist_list as
  with everyone as (select * from public.artists) select e.id, e.name from (select * from everyone) e;
create view public.hanging_list as select work_id, room_id from public.hangings;
create view public.guards as select * from hidden.guards;
create view public.crowded_rooms as
  select r.id, r.name, count(*) as works from public.rooms r join public.hangings h on h.room_id = r.id
  where exists (select w.id from public.works w where w.id = h.work_id)
  group by r.id having count(*) > 1;

create function public.shouted(public.works) returns text language sql stable as $$ select upper($1.title) || '!' $$;
create function public.maker(public.works) returns setof public.artists rows 1 language sql stable
  as 'select * from public.artists where id = $1.artist_id';
create function public.maker_alone(public.works) returns public.artists language sql stable
  as 'select * from public.artists where id = $1.artist_id';
create function public.oeuvre(public.artists) returns setof public.works language sql stable
  as 'select * from public.works where artist_id = $1.id';
create function public.rooms(public.places) returns setof public.rooms language sql stable
  as 'select * from public.rooms where id = $1.id';

create domain public.color as integer;
create function public.color_of(public.color) returns json language sql immutable
  as $$ select to_json('#' || lpad(to_hex($1), 6, '0')) $$;
create function public.color_from(json) returns public.color language sql immutable
  as $$ select (('x' || lpad(ltrim($1 #>> '{}', '#'), 8, '0'))::bit(32)::integer)::public.color $$;
create function public.color_from(text) returns public.color language sql immutable
  as $$ select (('x' || lpad(ltrim($1, '#'), 8, '0'))::bit(32)::integer)::public.color $$;
create cast (public.color as json) with function public.color_of(public.color) as implicit;
create cast (json as public.color) with function public.color_from(json) as implicit;
create cast (text as public.color) with function public.color_from(text) as implicit;
create table public.paints (id integer primary key, color public.color default 0);

create domain public."text/html" as text;
create domain public."image/png" as bytea;
create domain public."*/*" as bytea;
create function public.page() returns public."text/html" language sql stable as $$ select '<b>hi</b>' $$;
create function public.picture() returns public."image/png" language sql stable as $$ select '\\x89504e47'::bytea $$;
create function public.anything() returns public."*/*" language sql stable as $$ select 'any'::bytea $$;

create function public.greeting() returns text language sql stable as $$ select 'hello' $$;
create function public.all_works() returns setof public.works language sql stable as 'select * from public.works';
create function public.first_work() returns public.works language sql stable
  as 'select * from public.works order by id limit 1';
create function public.titles() returns setof text language sql stable as 'select title from public.works order by id';
create function public.sum_of(a integer, b integer default 1, out total integer) language sql stable
  as 'select a + b';
create function public.pair(out x integer, out y text) language sql stable as $$ select 1, 'one' $$;
create function public.listed(ids integer[]) returns integer language sql stable as 'select cardinality(ids)';
create function public.given(document json) returns json language sql stable as 'select document';
create function public.shout(text) returns text language sql stable as 'select upper($1)';
create function public.size_of(bytea) returns integer language sql stable as 'select length($1)';
create function public.over(a integer) returns text language sql stable as $$ select 'a' $$;
create function public.over(a integer, b integer) returns text language sql stable as $$ select 'ab' $$;
create function public.over(a integer, b integer, c integer default 0) returns text language sql stable
  as $$ select 'abc' $$;
create function public.null_number() returns integer language sql stable as 'select null::integer';
create domain public.hung as public.hangings;
create function public.hung() returns setof public.hung language sql stable
  as 'select h::public.hung from public.hangings h order by work_id';
create function public.some_record() returns record language sql stable as $$ select 1 as one, 'x' as two $$;
create function public.some_records() returns setof record language sql stable as 'select id, name from public.rooms';
create function public.long_text(t character(2), b bit(2)) returns text language sql stable as 'select t || b::text';
create function public.hang(p_room integer) returns setof public.hangings language sql volatile
  as 'update public.hangings set wall = wall where room_id = p_room returning *';
create function public.isolation() returns text language sql
  set default_transaction_isolation = 'serializable'
  as $$ select current_setting('transaction_isolation') $$;

insert into public.artists values (1, 'Ada', '{"born": {"year": 1880}, "langs": ["en", "fr"]}'), (2, 'Bela', '{}'),
  (3, 'Cem', '{"born": {"year": 1901}}');
insert into public.works (id, title, artist_id, restorer_id, year, price, tags, shown, words, data) values
  (1, 'Dawn', 1, 2, 1905, 10.50, '{oil,big}', '[1,5)', to_tsvector('english', 'a fat cat sat'), '{"a": {"b": [1, 2]}}'),
  (2, 'Dusk', 1, null, 1910, null, '{oil}', '[5,9)', to_tsvector('english', 'rats and dogs'), '{"a": null}'),
  (3, 'Noon, "late"', 2, 1, null, 7, '{"a,b"}', '[20,30)', to_tsvector('english', 'the cats'), '{"x": "1"}'),
  (4, 'night_50%', null, null, 1950, 8.25, '{}', null, null, '{}');
insert into public.notices values (1, to_tsvector('english', 'fat cats')), (2, to_tsvector('english', 'rats'));
insert into public.labels values (1, 'Dawn, oil'), (3, 'Noon');
insert into public.rooms values (1, 'Red'), (2, 'Blue'), (3, 'Empty');
insert into public.hangings values (1, 1, 'N'), (2, 1, 'S'), (3, 2, 'N');
insert into public.places values (1, 'Earth', null), (2, 'Land', 1), (3, 'Sea', 1), (4, 'Town', 2);
insert into public.houses values ('Oslo', 1, 'Old'), ('Oslo', 2, 'New');
insert into public.keepers values (1, 'Kim', 'Oslo', 2), (2, 'Lou', null, null);
insert into public.follows values (1, 2), (1, 3), (2, 3);
insert into public.visits values (1, '2025-05-01', 1), (2, '2025-06-01', 2);
insert into public."Odd, (name)" values (1, 'dot', 'space', 'dash');
insert into hidden.guards values (1, 'Gus', 1);
insert into public.paints values (1, 255), (2, 65280);
grant usage on schema hidden to service_role;
grant insert, update, select (work_id, text) on public.labels to authenticated;
grant select (id, title) on public.works to authenticated;
grant all on all tables in schema public, hidden to service_role;
grant execute on all functions in schema public to service_role, anon;
analyze;
"""
