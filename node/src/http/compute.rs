//! `/cpu` and `/local_program`: they never touch the store, and work without a leader.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use prometheus::Registry;
use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use crate::compute::cpu::{Cpu, CpuConfig};
use crate::compute::local_program::{LocalProgram, LocalProgramConfig};
use crate::compute::metrics::ComputeMetrics;
use crate::compute::pool::{Answer, PoolConfig};
use crate::config::Settings;
use crate::http::openapi::errors;
use crate::http::problem::{Code, Problem};
use crate::http::{App, input};

/// Where the answer came from: `pool` or `live`.
const HEARTH_SOURCE: HeaderName = HeaderName::from_static("hearth-source");

/// Sums that one request may ask for: some 7 ms of work.
const COUNT_MAX: usize = 1000;

/// Runs of the shipped program that are made ahead unless the configuration says otherwise: with results at
/// most 10 s old that is 1.6 runs a second, or 0.2 % of a core.
const SHIPPED_PROGRAM_POOL: usize = 16;

/// The two endpoints, set up.
pub(crate) struct Compute {
    cpu: Cpu,
    local_program: LocalProgram,
}

impl Compute {
    /// From the `compute.` keys. Within a Tokio runtime.
    pub(crate) fn new(settings: &Settings, registry: &Registry) -> anyhow::Result<Self> {
        let (program, args) = match &settings.compute_local_program_path {
            Some(program) => (program.clone(), settings.compute_local_program_args.clone()),
            None => shipped_program(&settings.compute_local_program_args)?,
        };
        let shipped = settings.compute_local_program_path.is_none();
        let pool_default = if shipped { SHIPPED_PROGRAM_POOL } else { 0 };
        // A default must not be what makes another key wrong.
        let pool_default = if settings.compute_local_program_running_max < 4 { 0 } else { pool_default };
        let variable = |v: &crate::config::Variable| (v.name.clone(), v.value.clone());
        let config = LocalProgramConfig {
            program,
            args,
            env: settings.compute_local_program_env.iter().map(variable).collect(),
            working_dir: settings.compute_local_program_working_dir.clone(),
            timeout: settings.compute_local_program_timeout,
            running_max: settings.compute_local_program_running_max,
            waiting_max: settings.compute_local_program_waiting_max,
            output_bytes_max: usize::try_from(settings.compute_local_program_output_bytes_max.as_u64())?,
            memory_bytes_max: settings.compute_local_program_memory_bytes_max.as_u64(),
            files_max: settings.compute_local_program_files_max,
            file_bytes_max: settings.compute_local_program_file_bytes_max.as_u64(),
            pool: PoolConfig {
                size: settings.compute_local_program_pool.unwrap_or(pool_default),
                age_max: settings.compute_local_program_pool_age,
                cpu_percent: settings.compute_pool_cpu_percent,
            },
        };
        let cpu = CpuConfig {
            threads: settings.compute_cpu_threads,
            waiting_max: settings.compute_cpu_waiting_max,
            pool: PoolConfig {
                size: settings.compute_cpu_pool,
                age_max: settings.compute_cpu_pool_age,
                cpu_percent: settings.compute_pool_cpu_percent,
            },
        };
        let metrics = ComputeMetrics::register(registry)?;
        Ok(Self {
            cpu: Cpu::new(&cpu, &metrics)?,
            local_program: LocalProgram::new(config, registry, &metrics)?,
        })
    }
}

/// `very_important_value` beside this executable, or this executable in its place: `cargo run`
/// builds only one of the two.
fn shipped_program(args: &[String]) -> anyhow::Result<(PathBuf, Vec<String>)> {
    let executable = std::env::current_exe().context("cannot find this program's own file")?;
    let beside = executable.with_file_name("very_important_value");
    if beside.is_file() {
        return Ok((beside, args.to_vec()));
    }
    let mut all = vec!["very-important-value".to_owned()];
    all.extend_from_slice(args);
    Ok((executable, all))
}

errors!(CpuErrors: InvalidParameter, Overloaded, Internal);
errors!(LocalProgramErrors: InvalidParameter, Overloaded, ProgramFailed, ProgramTimeout);

/// The query of `/cpu`, as [`count`] reads it.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "says what is accepted; the parser refuses unknown and doubled parameters")]
pub(super) struct CpuQuery {
    /// How many sums; they come in an array then, also when it is one.
    #[param(minimum = 1, maximum = 1000)]
    count: Option<u16>,
}

/// The answer of `/cpu`, as the document describes it: a sum, or several.
struct Sums;

impl PartialSchema for Sums {
    fn schema() -> RefOr<Schema> {
        let sum =
            || ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(10_000_000));
        let sums = ArrayBuilder::new().items(sum()).min_items(Some(1)).max_items(Some(COUNT_MAX));
        OneOfBuilder::new().item(sum()).item(sums).into()
    }
}

impl ToSchema for Sums {}

/// Sum of random integers
///
/// 100,000 of them, each uniform on 0 to 100. Every sum is drawn anew and answered once.
#[utoipa::path(
    get, path = "/cpu", tag = "compute", operation_id = "cpu",
    params(CpuQuery),
    responses(
        (status = 200, description = "The sum, or with `count` as many in an array", body = Sums, content_type = "application/json",
            headers(("hearth-source" = String, description = "`pool` when it was made ahead, else `live`"))),
        CpuErrors,
    ),
)]
pub(super) async fn cpu(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    match count(&uri)? {
        None => Ok(answer(app.compute.cpu.answer(app.haste()).await?)),
        Some(count) => Ok(answer(app.compute.cpu.answers(count, app.haste()).await?)),
    }
}

/// Exit status of the configured program
#[utoipa::path(
    get, path = "/local_program", tag = "compute", operation_id = "local_program",
    responses(
        (status = 200, description = "The exit status", body = u8, content_type = "application/json",
            headers(("hearth-source" = String, description = "`pool` when it was made ahead, else `live`"))),
        LocalProgramErrors,
    ),
)]
pub(super) async fn local_program(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    input::no_query(&uri)?;
    Ok(answer(app.compute.local_program.run().await?))
}

fn answer<T: Serialize>(answer: Answer<T>) -> Response {
    let source = HeaderValue::from_static(answer.source.as_str());
    ([(HEARTH_SOURCE, source)], Json(answer.value)).into_response()
}

/// `?count=`, once, and nothing else.
fn count(uri: &Uri) -> Result<Option<usize>, Problem> {
    let wrong = |detail: String| Err(Problem::new(Code::InvalidParameter, detail));
    let mut count = None;
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let ("count", text) = pair.split_once('=').unwrap_or((pair, "")) else {
            return wrong(format!("{pair}: only count is known here"));
        };
        let number = text.parse().ok().filter(|number| (1..=COUNT_MAX).contains(number));
        let Some(number) = number else {
            return wrong(format!("count: {text:?} is not a number from 1 to {COUNT_MAX}"));
        };
        if count.replace(number).is_some() {
            return wrong("count: more than once".to_owned());
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let cases = [
            ("/cpu", Ok(None)),
            ("/cpu?", Ok(None)),
            ("/cpu?count=1", Ok(Some(1))),
            ("/cpu?count=1000", Ok(Some(1000))),
            ("/cpu?count=0", Err("count: \\\"0\\\" is not a number from 1 to 1000")),
            ("/cpu?count=1001", Err("count: ")),
            ("/cpu?count=-1", Err("count: ")),
            ("/cpu?count=", Err("count: ")),
            ("/cpu?count", Err("count: ")),
            ("/cpu?count=1&count=1", Err("count: more than once")),
            ("/cpu?cuont=3", Err("cuont=3: only count is known here")),
        ];
        for (uri, expected) in cases {
            match (count(&uri.parse().unwrap()), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{uri}"),
                (Err(problem), Err(expected)) => {
                    assert!(format!("{problem:?}").contains(expected), "{uri}: {problem:?}")
                }
                (got, _) => panic!("{uri}: {got:?}"),
            }
        }
    }
}
