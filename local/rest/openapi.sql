-- What the role that asks may see of a schema, in the shape of `local.rest.transaction.Outcome`. Types are written
-- as the request's search_path reads them. $1: the schema; $2: whether rights are left out of account.
with tables as (
  select c.relname as name
  from pg_catalog.pg_class c
  where c.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $1)
    and c.relkind in ('r', 'v', 'm', 'f', 'p')
    and (
      $2
      or pg_catalog.pg_has_role(c.relowner, 'usage')
      or pg_catalog.has_table_privilege(c.oid, 'select, insert, update, delete, truncate, references, trigger')
      or pg_catalog.has_any_column_privilege(c.oid, 'select, insert, update, references')
    )
), functions as (
  select json_build_object(
    'name', p.proname,
    'description', pg_catalog.obj_description(p.oid, 'pg_proc'),
    'is_volatile', p.provolatile = 'v',
    'arguments', (
      select coalesce(json_agg(json_build_object(
        'name', coalesce(a.name, ''),
        'type', case a.type
          when 'pg_catalog.bit'::regtype then 'bit varying' when 'pg_catalog.bit[]'::regtype then 'bit varying[]'
          when 'pg_catalog.bpchar'::regtype then 'character varying'
          when 'pg_catalog.bpchar[]'::regtype then 'character varying[]'
          else pg_catalog.format_type(a.type, null)
        end,
        'is_optional', a.input_position > p.pronargs - p.pronargdefaults,
        'is_variadic', a.mode = 'v'
      ) order by a.input_position), '[]')
      from (
        select x.name, x.type, coalesce(x.mode, 'i') as mode, row_number() over (order by x.position) as input_position
        from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargnames, p.proargmodes)
          with ordinality as x(type, name, mode, position)
        where x.type is not null and coalesce(x.mode, 'i') in ('i', 'b', 'v')
      ) a
    )
  ) as document
  from pg_catalog.pg_proc p
  where p.pronamespace = (select oid from pg_catalog.pg_namespace where nspname = $1)
    and p.prokind = 'f'
    and p.prorettype not in ('pg_catalog.trigger'::regtype, 'pg_catalog.event_trigger'::regtype)
    and ($2 or pg_catalog.has_function_privilege(p.oid, 'execute'))
    -- One without names can be called only with the whole body as its argument.
    and (
      p.pronargs = 0
      or p.proargnames is not null and '' <> all(p.proargnames[1:p.pronargs])
      or p.pronargs = 1 and p.proargtypes[0] in (
        'pg_catalog.bytea'::regtype, 'pg_catalog.json'::regtype, 'pg_catalog.jsonb'::regtype,
        'pg_catalog.text'::regtype, 'pg_catalog.xml'::regtype
      )
    )
  order by p.proname, p.pronargs, p.oid
)
select
  json_build_object(
    'description', (
      select pg_catalog.obj_description(oid, 'pg_namespace') from pg_catalog.pg_namespace where nspname = $1
    ),
    'tables', (select coalesce(json_agg(name), '[]') from tables),
    'functions', (select coalesce(json_agg(document), '[]') from functions)
  )::text as body,
  1::bigint as row_count,
  null::bigint as total,
  null::text as inserted,
  nullif(current_setting('response.headers', true), '') as response_headers,
  nullif(current_setting('response.status', true), '') as response_status
