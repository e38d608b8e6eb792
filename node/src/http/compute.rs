//! `/cpu` and `/local_program`: they never touch the store, and work without a leader.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use prometheus::Registry;

use crate::compute::cpu::{Cpu, CpuConfig};
use crate::compute::local_program::{LocalProgram, LocalProgramConfig};
use crate::config::Settings;
use crate::http::openapi::errors;
use crate::http::problem::Problem;
use crate::http::{App, input};

/// The two endpoints, set up.
pub(crate) struct Compute {
    cpu: Cpu,
    local_program: LocalProgram,
}

impl Compute {
    /// From the `compute.` keys.
    pub(crate) fn new(settings: &Settings, registry: &Registry) -> anyhow::Result<Self> {
        let (program, args) = match &settings.compute_local_program_path {
            Some(program) => (program.clone(), settings.compute_local_program_args.clone()),
            None => shipped_program(&settings.compute_local_program_args)?,
        };
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
        };
        let cpu = CpuConfig {
            threads: settings.compute_cpu_threads,
            waiting_max: settings.compute_cpu_waiting_max,
        };
        Ok(Self { cpu: Cpu::new(&cpu)?, local_program: LocalProgram::new(config, registry)? })
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

/// Sum of random integers
///
/// 100,000 of them, each uniform on 0 to 100, drawn for this answer.
#[utoipa::path(
    get, path = "/cpu", tag = "compute", operation_id = "cpu",
    responses((status = 200, description = "The sum", body = u32, content_type = "application/json"), CpuErrors),
)]
pub(super) async fn cpu(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<u32>, Problem> {
    input::no_query(&uri)?;
    Ok(Json(app.compute.cpu.answer().await?))
}

/// Exit status of the configured program
#[utoipa::path(
    get, path = "/local_program", tag = "compute", operation_id = "local_program",
    responses((status = 200, description = "The exit status", body = u8, content_type = "application/json"), LocalProgramErrors),
)]
pub(super) async fn local_program(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<u8>, Problem> {
    input::no_query(&uri)?;
    Ok(Json(app.compute.local_program.run().await?))
}
