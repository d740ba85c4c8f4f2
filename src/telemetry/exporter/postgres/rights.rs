//! The rights that roles have by the migrations, and what is missing of them.
//!
//! A migration grants once; a right that somebody revokes later, or of a role that came later, would
//! stay away for ever. What is due is data: statements that give rows of kind (`table`, `sequence`,
//! `function`, `schema`), object, privilege and role. Roles and objects that do not exist are passed
//! over, and nothing is ever taken from anybody here.

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

/// What is due on `system_logs`: to the service role of a Supabase project, and to the owner, who can
/// lose a right, too.
pub const LOGS: &str = "
    select * from (values
        ('table', 'public.system_logs', 'select', 'service_role'),
        ('table', 'public.system_logs', 'insert', 'service_role'),
        ('sequence', 'dogwatch.system_logs_arrival', 'usage', 'service_role'),
        ('function', 'public.dw_maintain_system_logs()', 'execute', 'service_role'),
        ('function', 'public.dw_insert_logs(jsonb)', 'execute', 'service_role'),
        ('function', 'public.dw_read_logs(jsonb)', 'execute', 'service_role'),
        ('function', 'public.dw_newest_logs(jsonb)', 'execute', 'service_role'),
        ('function', 'public.telemetry_silence(interval, interval, timestamptz)', 'execute', 'service_role')
    ) as logs (kind, object, privilege, role)
    union all
    select 'table', 'public.system_logs', privilege, pg_get_userbyid(c.relowner)::text
    from pg_class c cross join unnest(array['select', 'insert', 'update', 'delete']) as privilege
    where c.oid = to_regclass('public.system_logs')
    union all
    select 'sequence', 'dogwatch.system_logs_arrival', 'usage', pg_get_userbyid(c.relowner)::text
    from pg_class c where c.oid = to_regclass('dogwatch.system_logs_arrival')";

/// Most rights that are named.
const RIGHTS_MAX: u32 = 500;

/// A right that a role should have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Right {
    /// Such as `insert on public.system_logs to service_role`.
    words: String,
    /// What gives it.
    grant: String,
}

/// What is missing of `due`, in words, such as `insert on public.system_logs to service_role`.
///
/// # Errors
/// As the driver tells.
pub async fn missing(connection: &mut PgConnection, due: &[&'static str]) -> Result<Vec<String>, sqlx::Error> {
    Ok(look(connection, due).await?.into_iter().map(|right| right.words).collect())
}

/// Grants what is missing of `due`, as far as the connection's role may: what it granted, and what
/// is missing still.
pub(super) async fn restore(
    connection: &mut PgConnection,
    due: &[&'static str],
) -> Result<(Vec<String>, Vec<String>), sqlx::Error> {
    let before = look(connection, due).await?;
    for right in &before {
        // The rest of the migration does not depend on it.
        let grant = format!(
            "do $grant$ begin {}; exception when insufficient_privilege then null; end $grant$",
            right.grant
        );
        sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut *connection).await?;
    }
    let left = if before.is_empty() { Vec::new() } else { missing(connection, due).await? };
    let restored = before.into_iter().map(|right| right.words).filter(|words| !left.contains(words)).collect();
    Ok((restored, left))
}

async fn look(connection: &mut PgConnection, due: &[&'static str]) -> Result<Vec<Right>, sqlx::Error> {
    let sql = format!(
        "with due (kind, object, privilege, role) as ({})
         select format('%s on %s to %I', privilege, object, role),
             format('grant %s on %s %s to %I', privilege, kind, object, role)
         from due where to_regrole(quote_ident(role)) is not null and case kind
             when 'schema' then to_regnamespace(object) is not null and not has_schema_privilege(role, object, privilege)
             when 'table' then to_regclass(object) is not null and not has_table_privilege(role, object, privilege)
             when 'sequence' then to_regclass(object) is not null and not has_sequence_privilege(role, object, privilege)
             else to_regprocedure(object) is not null and not has_function_privilege(role, object, privilege) end
         order by kind, object, privilege, role limit {RIGHTS_MAX}",
        due.join(" union ")
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch_all(connection).await?;
    rows.iter().map(|row| Ok(Right { words: row.try_get(0)?, grant: row.try_get(1)? })).collect()
}
