-- What the API can reach, as one JSON document. Run with an empty search_path, so that every type and default
-- is written with its schema. $1: the schemas exposed where the connected role's settings name none.
with recursive config as (
  select split_part(given.pair, '=', 1) as name, substr(given.pair, strpos(given.pair, '=') + 1) as value
  from (
    select distinct on (split_part(pair, '=', 1)) pair
    from pg_catalog.pg_db_role_setting s
    cross join unnest(s.setconfig) as pair
    where s.setrole = (select oid from pg_catalog.pg_roles where rolname = current_user)
      and s.setdatabase in (0, (select oid from pg_catalog.pg_database where datname = current_database()))
      and pair like 'pgrst.%'
    order by split_part(pair, '=', 1), s.setdatabase desc
  ) given
), exposed as (
  select coalesce(
    (select regexp_split_to_array(btrim(value), '\s*,\s*') from config where name = 'pgrst.db_schemas'), $1
  ) as schemas
), owned as (
  select c.oid, n.nspname, c.relname, c.relkind, c.reltype, c.relispartition
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'v', 'm', 'f', 'p') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
), domains as (
  select t.oid, t.typbasetype from pg_catalog.pg_type t where t.typtype = 'd'
  union all
  select d.oid, t.typbasetype from domains d join pg_catalog.pg_type t on t.oid = d.typbasetype where t.typtype = 'd'
), bases as (
  select d.oid, d.typbasetype as base
  from domains d join pg_catalog.pg_type t on t.oid = d.typbasetype and t.typtype <> 'd'
), relations as (
  select owned.* from owned, exposed where nspname = any(exposed.schemas) and not owned.relispartition
), origins as (
  select json_build_object(
    'oid', o.oid::bigint,
    'name', json_build_array(o.nspname, o.relname),
    'columns', (
      select coalesce(json_object_agg(a.attnum, a.attname), '{}') from pg_catalog.pg_attribute a
      where a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped
    ),
    'primary_key', (
      select coalesce(json_agg(a.attname order by key.position), '[]')
      from pg_catalog.pg_constraint k
      cross join unnest(k.conkey) with ordinality as key(attnum, position)
      join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = key.attnum
      where k.conrelid = o.oid and k.contype = 'p'
    ),
    'rule', (
      select r.ev_action::text from pg_catalog.pg_rewrite r
      where o.relkind in ('v', 'm') and r.ev_class = o.oid and r.rulename = '_RETURN'
    )
  ) as document
  from owned o
), tables as (
  select json_build_object(
    'schema', r.nspname,
    'name', r.relname,
    'columns', (
      select coalesce(json_agg(json_build_object(
        'name', a.attname,
        'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
        'is_vector', base.type = 'tsvector'::regtype,
        'format', pg_catalog.format_type(base.type, null),
        'is_nullable', not (a.attnotnull or t.typtype = 'd' and t.typnotnull),
        'description', pg_catalog.col_description(r.oid, a.attnum),
        'max_length', information_schema._pg_char_max_length(
          base.type, case t.typtype when 'd' then t.typtypmod else a.atttypmod end
        ),
        'labels', (
          select coalesce(json_agg(e.enumlabel order by e.enumsortorder), '[]') from pg_catalog.pg_enum e
          where e.enumtypid = base.type
        ),
        'default', case
          -- By the dependency: to look the sequence up by name takes a right on its schema.
          when a.attidentity <> '' then (
            select pg_catalog.format('nextval(%L::pg_catalog.regclass)', s.objid::pg_catalog.regclass)
            from pg_catalog.pg_depend s
            where s.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and s.refobjid = r.oid
              and s.classid = s.refclassid and s.refobjsubid = a.attnum and s.deptype = 'i'
          )
          when a.attgenerated = '' then coalesce(
            pg_catalog.pg_get_expr(d.adbin, d.adrelid), pg_catalog.pg_get_expr(t.typdefaultbin, 0)
          )
        end
      ) order by a.attnum), '[]')
      from pg_catalog.pg_attribute a
      join pg_catalog.pg_type t on t.oid = a.atttypid
      left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
      cross join lateral (select coalesce((select base from bases where oid = a.atttypid), a.atttypid) as type) base
      where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    ),
    'writes', pg_catalog.pg_relation_is_updatable(r.oid, true),
    'is_view', r.relkind in ('v', 'm'),
    'description', pg_catalog.obj_description(r.oid, 'pg_class')
  ) as document
  from relations r
), foreign_keys as (
  select json_build_object(
    'name', k.conname,
    'table', json_build_array(source.nspname, source.relname),
    'target', json_build_array(target.nspname, target.relname),
    'columns', (
      select json_agg(json_build_array(a.attname, b.attname) order by pair.position)
      from unnest(k.conkey, k.confkey) with ordinality as pair(own, other, position)
      join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = pair.own
      join pg_catalog.pg_attribute b on b.attrelid = k.confrelid and b.attnum = pair.other
    ),
    'is_unique', exists (
      select from pg_catalog.pg_constraint u
      where u.conrelid = k.conrelid and u.contype in ('p', 'u') and u.conkey @> k.conkey and u.conkey <@ k.conkey
    )
  ) as document
  from pg_catalog.pg_constraint k
  join owned source on source.oid = k.conrelid
  join owned target on target.oid = k.confrelid
  where k.contype = 'f' and k.conparentid = 0
), functions as (
  select json_build_object(
    'schema', n.nspname,
    'name', p.proname,
    'arguments', (
      select coalesce(json_agg(json_build_object(
        'name', coalesce(a.name, ''),
        -- Without a length, which these take for one.
        'type', case a.type
          when 'bit'::regtype then 'bit varying' when 'bit[]'::regtype then 'bit varying[]'
          when 'bpchar'::regtype then 'character varying' when 'bpchar[]'::regtype then 'character varying[]'
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
    ),
    'returns', pg_catalog.format_type(p.prorettype, null),
    'returns_set', p.proretset,
    'returns_rows', b.typtype = 'c' or coalesce(p.proargmodes::text[] && array['t', 'o', 'b'], false),
    'relation', (select json_build_array(r.nspname, r.relname) from relations r where r.oid = b.typrelid),
    'of', (
      select json_build_array(r.nspname, r.relname) from relations r
      where p.pronargs = 1 and r.reltype = p.proargtypes[0]
    ),
    'is_single', not p.proretset or p.prorows = 1,
    'media', case
      when t.typtype = 'd' and not p.proretset and t.typname ~ '^([A-Za-z0-9.-]+/[A-Za-z0-9.+-]+|\*/\*)$' then t.typname
    end,
    'media_is_bytes', t.typbasetype = 'bytea'::regtype,
    'is_volatile', p.provolatile = 'v',
    'settings', coalesce(p.proconfig, '{}')
  ) as document
  from pg_catalog.pg_proc p
  join pg_catalog.pg_namespace n on n.oid = p.pronamespace
  join pg_catalog.pg_type t on t.oid = p.prorettype
  left join bases on bases.oid = t.oid
  join pg_catalog.pg_type b on b.oid = coalesce(bases.base, t.oid)
  where n.nspname = any((select schemas from exposed)::name[])
    and p.prokind = 'f'
    and p.prorettype not in ('pg_catalog.trigger'::regtype, 'pg_catalog.event_trigger'::regtype)
  order by n.nspname, p.proname, p.pronargs, p.oid
), representations as (
  select json_build_object(
    'source', pg_catalog.format_type(k.castsource, null),
    'target', pg_catalog.format_type(k.casttarget, null),
    'function', json_build_array(n.nspname, f.proname)
  ) as document
  from pg_catalog.pg_cast k
  join pg_catalog.pg_type source on source.oid = k.castsource
  join pg_catalog.pg_type target on target.oid = k.casttarget
  join pg_catalog.pg_proc f on f.oid = k.castfunc
  join pg_catalog.pg_namespace n on n.oid = f.pronamespace
  where k.castcontext = 'i' and k.castmethod = 'f'
    and (
      source.typtype = 'd' and k.casttarget in ('json'::regtype, 'text'::regtype)
      or target.typtype = 'd' and k.castsource in ('json'::regtype, 'text'::regtype)
    )
), role_settings as (
  select json_build_object(
    'role', r.rolname,
    'name', split_part(given.pair, '=', 1),
    'value', substr(given.pair, strpos(given.pair, '=') + 1)
  ) as document
  from pg_catalog.pg_db_role_setting s
  join pg_catalog.pg_roles r on r.oid = s.setrole
  cross join unnest(s.setconfig) as given(pair)
  join pg_catalog.pg_settings known on known.name = split_part(given.pair, '=', 1) and known.context = 'user'
  where s.setdatabase in (0, (select oid from pg_catalog.pg_database where datname = current_database()))
    and r.rolname <> current_user
    and pg_catalog.pg_has_role(current_user, r.oid, 'member')
)
select json_build_object(
  'config', (select coalesce(json_object_agg(name, value), '{}') from config),
  'schemas', (select schemas from exposed),
  'origins', (select coalesce(json_agg(document), '[]') from origins),
  'tables', (select coalesce(json_agg(document), '[]') from tables),
  'foreign_keys', (select coalesce(json_agg(document), '[]') from foreign_keys),
  'functions', (select coalesce(json_agg(document), '[]') from functions),
  'representations', (select coalesce(json_agg(document), '[]') from representations),
  'role_settings', (select coalesce(json_agg(document), '[]') from role_settings)
)
