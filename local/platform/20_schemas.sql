-- Schemas, and who gets what in `public` by default.
create schema if not exists extensions;
create schema if not exists auth;
create schema if not exists realtime;
create schema if not exists storage;
-- Not the servers' own roles: `supabase db reset` drops every schema that it does not find to be supabase_admin's.
alter schema auth owner to supabase_admin;
alter schema realtime owner to supabase_admin;
alter schema storage owner to supabase_admin;
grant all on schema auth to supabase_auth_admin, postgres, dashboard_user;
grant all on schema storage to supabase_storage_admin, postgres, dashboard_user;

grant usage on schema public to anon, authenticated, service_role;
grant usage on schema extensions to anon, authenticated, service_role;
grant usage on schema auth to anon, authenticated, service_role;
grant usage on schema realtime to anon, authenticated, service_role, supabase_realtime_admin;
grant usage on schema storage to anon, authenticated, service_role;

-- A project's new objects in `public` are closed to the API until a migration grants them: the platform first
-- granted everything to the API roles and since 2026 takes back what reads or writes. What it leaves (truncate,
-- references, trigger on tables) is left here too, so that a migration that forgets to revoke it is seen here.
alter default privileges for role postgres in schema public
  grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on sequences to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  revoke select, insert, update, delete on tables from anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  revoke usage, select on sequences from anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  revoke execute on functions from anon, authenticated, service_role;
