//! A stand-in for a Supabase project's Data API: gateway and PostgREST before a real Postgres.
//!
//! `POST /rest/v1/rpc/<function>` calls any SQL function with one unnamed jsonb parameter, in one
//! transaction, as the role that the key stands for, exactly as PostgREST does by its documentation:
//! the function's own settings hoisted into the transaction, `request.headers` and
//! `request.jwt.claims` set, `response.status` honoured, errors as `{code, details, hint, message}`
//! with its status for each SQLSTATE, sets cut at `max-rows`. The gateway in front knows the project's
//! keys: JWTs as bearer, `sb_...` keys as `apikey` only. Faults stand between: what the edge answers
//! without PostgREST, an answer that is late, or cut after the commit.
//!
//! What is documented is here; what is not (how fast, how fair) is not. Nothing else of PostgREST:
//! no tables, no named parameters, no GET.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Row as _};

use super::postgres_rig::Database;

/// The project's keys, all of them marked: no output of ours may ever show one.
pub(crate) const SECRET_KEY: &str = "sb_secret_marked-secret-of-the-project";
pub(crate) const PUBLISHABLE_KEY: &str = "sb_publishable_marked-secret-of-browsers";
/// {"alg":"HS256","typ":"JWT"} {"iss":"supabase","role":"service_role"}
pub(crate) const SERVICE_JWT: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
    eyJpc3MiOiJzdXBhYmFzZSIsInJvbGUiOiJzZXJ2aWNlX3JvbGUifQ.marked-secret-signature";
/// {"alg":"HS256","typ":"JWT"} {"iss":"supabase","role":"anon"}
pub(crate) const ANON_JWT: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
    eyJpc3MiOiJzdXBhYmFzZSIsInJvbGUiOiJhbm9uIn0.marked-secret-signature";

/// Connections to the database.
const POOL: u32 = 8;
/// How long a request waits for one of them.
const POOL_WAIT: Duration = Duration::from_secs(3);

/// Most rows of a result, as a new project has it.
const ROWS_MAX: i64 = 1_000;

/// What becomes of a call instead of, or beside, what it asks for.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The edge answers, and PostgREST hears nothing.
    Edge { status: u16, headers: Vec<(&'static str, String)>, body: String },
    /// The call is made and committed; the connection closes without an answer.
    CutAfterCommit,
    /// The call is made and committed; the answer never comes.
    HangAfterCommit,
    /// The call begins this much later.
    Slow(Duration),
    /// Bodies longer than this are refused with 413.
    BodyMax(usize),
}

impl Fault {
    /// A status and nothing else.
    pub(crate) fn status(status: u16) -> Fault {
        Fault::Edge { status, headers: Vec::new(), body: String::new() }
    }

    /// A page of the edge, as Cloudflare writes them.
    pub(crate) fn page(status: u16, title: &str) -> Fault {
        let body = format!(
            "<!DOCTYPE html>\n<html lang=\"en-US\">\n<head>\n<title>project.supabase.co | {status}: {title}</title>\n\
             </head>\n<body><div id=\"cf-wrapper\">{title}</div></body></html>"
        );
        Fault::Edge { status, headers: vec![("content-type", "text/html; charset=UTF-8".to_owned())], body }
    }
}

/// A running project.
pub(crate) struct Project {
    pub(crate) url: String,
    inside: Arc<Inside>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Inside {
    pool: PgPool,
    keys: Mutex<Vec<(String, &'static str)>>,
    /// What becomes of the next calls, one each; then of all.
    faults: Mutex<(VecDeque<Fault>, Option<Fault>)>,
    seen: Mutex<Vec<Seen>>,
    /// PostgREST's `max-rows`: most rows of any result.
    rows_max: AtomicI64,
}

/// A call that reached the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) function: String,
    /// Header lines, as they came.
    pub(crate) headers: String,
    pub(crate) bytes: usize,
    /// Status that was answered; None: no answer.
    pub(crate) status: Option<u16>,
    /// Length of the list `rows` in the answer, where it has one.
    pub(crate) rows: Option<usize>,
}

impl Project {
    /// A project on `database`, whose roles are made where they are missing.
    pub(crate) fn start(database: &Database) -> Project {
        database.make_supabase_roles();
        let (ready, started) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let database = database.clone();
        #[expect(clippy::disallowed_methods, reason = "a server of the test's own, ended with it")]
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(database, ready, stopped));
        });
        let (url, inside) = started.recv().unwrap();
        Project { url, inside, stop: Some(stop), thread: Some(thread) }
    }

    /// What becomes of the next call.
    pub(crate) fn next(&self, fault: Fault) {
        self.inside.faults.lock().unwrap().0.push_back(fault);
    }

    /// What becomes of every call from here on.
    pub(crate) fn always(&self, fault: Fault) {
        self.inside.faults.lock().unwrap().1 = Some(fault);
    }

    /// All works again.
    pub(crate) fn heal(&self) {
        *self.inside.faults.lock().unwrap() = Default::default();
    }

    /// From here on no result has more rows; it is cut, and nothing says so.
    pub(crate) fn cap_rows(&self, rows_max: i64) {
        self.inside.rows_max.store(rows_max, Ordering::SeqCst);
    }

    /// The secret keys of both kinds are known no more.
    pub(crate) fn revoke_keys(&self) {
        self.inside.keys.lock().unwrap().retain(|(_, role)| *role != "service_role");
    }

    /// They are known again.
    pub(crate) fn restore_keys(&self) {
        *self.inside.keys.lock().unwrap() = keys();
    }

    /// The calls so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inside.seen.lock().unwrap().clone()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn keys() -> Vec<(String, &'static str)> {
    [(SECRET_KEY, "service_role"), (SERVICE_JWT, "service_role"), (PUBLISHABLE_KEY, "anon"), (ANON_JWT, "anon")]
        .map(|(key, role)| (key.to_owned(), role))
        .to_vec()
}

type Ready = std::sync::mpsc::Sender<(String, Arc<Inside>)>;

async fn serve(database: Database, ready: Ready, stopped: tokio::sync::oneshot::Receiver<()>) {
    let options: PgConnectOptions = database.url_of("authenticator").parse().unwrap();
    let pool = PgPoolOptions::new().max_connections(POOL).acquire_timeout(POOL_WAIT).connect_lazy_with(options);
    let inside = Arc::new(Inside {
        pool,
        keys: Mutex::new(keys()),
        faults: Mutex::default(),
        seen: Mutex::default(),
        rows_max: AtomicI64::new(ROWS_MAX),
    });
    let app = Router::new()
        .route("/rest/v1/rpc/{function}", post(called))
        // PostgREST has no documented limit of its own.
        .layer(DefaultBodyLimit::max(64 << 20))
        .with_state(Arc::clone(&inside));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let _ = ready.send((url, Arc::clone(&inside)));
    let server = async { axum::serve(listener, app).await };
    // Hanging answers must not keep the test: connections die with the runtime.
    tokio::select! {
        _ = server => {}
        _ = stopped => {}
    }
}

async fn called(
    State(inside): State<Arc<Inside>>,
    Path(function): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let number = {
        let mut seen = inside.seen.lock().unwrap();
        let shown = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")));
        let headers = shown.collect::<Vec<_>>().join("\n");
        seen.push(Seen { function: function.clone(), headers, bytes: body.len(), status: None, rows: None });
        seen.len() - 1
    };
    let fault = {
        let mut faults = inside.faults.lock().unwrap();
        let next = faults.0.pop_front();
        next.or_else(|| faults.1.clone())
    };
    let (status, body) = match fault {
        Some(Fault::Edge { status, headers, body }) => {
            inside.seen.lock().unwrap()[number].status = Some(status);
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            return response.body(Body::from(body)).unwrap();
        }
        Some(Fault::BodyMax(max)) if body.len() > max => (413, json!({"message": "Payload Too Large"})),
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            inside.gateway(&function, &headers, &body).await
        }
        Some(Fault::CutAfterCommit) => {
            inside.gateway(&function, &headers, &body).await;
            // The body ends before its announced length: the connection is torn.
            let torn = futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
            return Response::builder().status(200).body(Body::from_stream(torn)).unwrap();
        }
        Some(Fault::HangAfterCommit) => {
            inside.gateway(&function, &headers, &body).await;
            return std::future::pending().await;
        }
        Some(Fault::BodyMax(_)) | None => inside.gateway(&function, &headers, &body).await,
    };
    let rows = body["rows"].as_array().map(Vec::len);
    let told = |seen: &mut Seen| (seen.status, seen.rows) = (Some(status), rows);
    told(&mut inside.seen.lock().unwrap()[number]);
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body.to_string()).into_response()
}

impl Inside {
    /// The gateway: which role the keys stand for, as Supabase's does it.
    async fn gateway(&self, function: &str, headers: &HeaderMap, body: &[u8]) -> (u16, Value) {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let Some(key) = text("apikey") else {
            return (401, json!({"message": "No API key found in request", "hint": "No `apikey` request header"}));
        };
        let role_of = |key: &str| {
            let keys = self.keys.lock().unwrap();
            keys.iter().find(|(known, _)| known == key).map(|(_, role)| *role)
        };
        let Some(by_key) = role_of(key) else {
            return (401, json!({"message": "Invalid API key", "hint": "Double check your API key."}));
        };
        if key.starts_with("sb_secret_") && text("user-agent").is_some_and(|agent| agent.contains("Mozilla/")) {
            return (401, json!({"message": "Forbidden use of secret API key in browser"}));
        }
        let role = match text("authorization").map(|value| value.strip_prefix("Bearer ")) {
            // PostgREST takes a bearer for a JWT, whatever it is.
            Some(Some(bearer)) if bearer.split('.').count() != 3 => {
                return (401, failed("PGRST301", "Expected 3 parts in JWT; got 1"));
            }
            Some(Some(bearer)) => match role_of(bearer) {
                Some(role) => role,
                None => return (401, failed("PGRST301", "No suitable key or wrong key type")),
            },
            // The gateway mints a short-lived JWT for keys that are none; a JWT alone is no bearer.
            Some(None) | None if key.starts_with("sb_") => by_key,
            Some(None) | None => "anon",
        };
        self.postgrest(function, role, headers, body).await
    }

    async fn postgrest(&self, function: &str, role: &str, headers: &HeaderMap, body: &[u8]) -> (u16, Value) {
        let is_json =
            headers.get(header::CONTENT_TYPE).is_none_or(|value| value.as_bytes().starts_with(b"application/json"));
        if !is_json {
            return (415, failed("PGRST107", "Content-Type not acceptable"));
        }
        let Ok(text) = std::str::from_utf8(body) else {
            return (400, failed("PGRST102", "Empty or invalid json"));
        };
        if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
            return (400, failed("PGRST102", "Empty or invalid json"));
        }
        let mut connection = match self.pool.acquire().await {
            Ok(connection) => connection,
            Err(sqlx::Error::PoolTimedOut) => {
                return (504, failed("PGRST003", "Timed out acquiring connection from connection pool."));
            }
            Err(_) => return (503, failed("PGRST000", "Database connection error. Retrying the connection.")),
        };
        let rows_max = self.rows_max.load(Ordering::SeqCst);
        let answer = call(&mut connection, function, role, headers, text, rows_max).await;
        if answer.as_ref().is_err_and(|error| error.as_database_error().is_none()) {
            // What is left of the connection is not used again.
            let _ = connection.detach().close_hard().await;
        }
        match answer {
            Ok(answer) => answer,
            Err(error) => of_error(&error, role),
        }
    }
}

/// One call in one transaction.
async fn call(
    connection: &mut PgConnection,
    function: &str,
    role: &str,
    headers: &HeaderMap,
    body: &str,
    rows_max: i64,
) -> Result<(u16, Value), sqlx::Error> {
    // The schema cache: what the database has under that name with one unnamed json parameter.
    let found = sqlx::query(
        "select coalesce(array_to_string(proconfig, E'\\n'), '') as settings, proretset as is_set from pg_proc p \
         join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'public' and p.proname = $1 \
         and p.pronargs = 1 and p.proargtypes[0] in ('jsonb'::regtype, 'json'::regtype) and p.proargnames is null",
    )
    .bind(function)
    .persistent(false)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(found) = found else {
        let message = format!(
            "Could not find the function public.{function} with a single unnamed json/jsonb parameter in the schema cache"
        );
        return Ok((404, failed("PGRST202", &message)));
    };
    let mut transaction = connection.begin().await?;
    let names: serde_json::Map<String, Value> = headers
        .iter()
        .filter(|(name, _)| *name != "apikey" && *name != header::AUTHORIZATION)
        .filter_map(|(name, value)| Some((name.to_string(), Value::from(value.to_str().ok()?))))
        .collect();
    sqlx::query(
        "select set_config('role', $1, true), set_config('request.jwt.claims', $2, true), \
         set_config('request.headers', $3, true), set_config('response.status', '', true)",
    )
    .bind(role)
    .bind(json!({"role": role}).to_string())
    .bind(Value::Object(names).to_string())
    .persistent(false)
    .execute(&mut *transaction)
    .await?;
    // PostgREST hoists these settings of the function into the transaction; the others it leaves.
    for setting in found.get::<String, _>("settings").lines() {
        if let Some((name @ ("statement_timeout" | "plan_filter.statement_cost_limit"), value)) =
            setting.split_once('=')
        {
            sqlx::query("select set_config($1, $2, true)")
                .bind(name)
                .bind(value)
                .persistent(false)
                .execute(&mut *transaction)
                .await?;
        }
    }
    let answer = answer_of(&mut transaction, function, found.get("is_set"), body, rows_max).await?;
    let status: Option<String> = sqlx::query_scalar("select current_setting('response.status', true)")
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let answer = answer.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
    let status = match status.as_deref().filter(|text| !text.is_empty()) {
        None => 200,
        Some(text) => match text.parse() {
            Ok(status) => status,
            Err(_) => return Ok((500, failed("PGRST112", "response.status must be a valid status code"))),
        },
    };
    Ok((status, answer))
}

/// What the function gives: a value is one row, and a set is a list of at most so many.
async fn answer_of(
    connection: &mut PgConnection,
    function: &str,
    is_set: bool,
    body: &str,
    rows_max: i64,
) -> Result<Option<String>, sqlx::Error> {
    let answer = if is_set { "coalesce(jsonb_agg(answer), '[]')::text" } else { "answer::text" };
    let sql = format!(
        "select {answer} from (select public.\"{}\"($1::jsonb) as answer limit $2) as result",
        function.replace('"', "\"\"")
    );
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(body).bind(rows_max).persistent(false);
    query.fetch_one(connection).await
}

fn failed(code: &str, message: &str) -> Value {
    json!({"code": code, "details": null, "hint": null, "message": message})
}

/// PostgREST's answer to a database's error.
fn of_error(error: &sqlx::Error, role: &str) -> (u16, Value) {
    let Some(error) = error.as_database_error() else {
        return (503, failed("PGRST001", "Database client error. Retrying the connection."));
    };
    let error = error.downcast_ref::<sqlx::postgres::PgDatabaseError>();
    let code = error.code();
    let body = json!({
        "code": code, "details": error.detail(), "hint": error.hint(), "message": error.message(),
    });
    (status_of(code, role != "anon"), body)
}

/// The table of PostgREST's documentation (references/errors, HTTP status codes).
fn status_of(code: &str, is_authenticated: bool) -> u16 {
    match code {
        "23503" | "23505" => 409,
        "25006" => 405,
        "42883" | "42P01" => 404,
        "42P17" | "53400" => 500,
        "42501" if is_authenticated => 403,
        "42501" => 401,
        "P0001" => 400,
        _ => match &code[..2] {
            "08" | "53" => 503,
            "0L" | "0P" | "28" => 403,
            "09" | "25" | "2D" | "38" | "39" | "3B" | "40" | "54" | "55" | "57" | "58" | "F0" | "HV" | "P0"
            | "XX" => 500,
            _ => 400,
        },
    }
}
