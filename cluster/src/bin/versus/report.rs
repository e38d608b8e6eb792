//! From rounds to a table: medians over the rounds, and what Hearth has of what the others have.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use hearth_cluster::load::Operation;
use hearth_cluster::machine::Machine;
use serde_json::{Value, json};

use crate::options::System;
use crate::round::{MEASURES, Round};

/// A cell with more errors than this share of its requests says nothing.
const ERRORS_SHARE_MAX: f64 = 0.001;
/// Above this share of its one processor, the client is the limit and not the servers.
const CLIENT_SHARE_MAX: f64 = 0.9;
/// Above this many processors, the servers without load or other programs disturbed the servers with.
const DISTURBING_CORES: f64 = 0.1;

/// All that was seen.
#[derive(Debug)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Whom: programs with their versions.
    pub programs: Vec<String>,
    /// In the order in which they ran.
    pub rounds: Vec<Round>,
}

impl Report {
    /// Writes every round to `file`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_json(&self, file: &Path) -> Result<()> {
        let rounds: Vec<Value> = self.rounds.iter().map(Round::to_json).collect();
        let all = json!({ "machine": self.machine.to_json(), "programs": self.programs, "rounds": rounds });
        std::fs::write(file, format!("{all:#}\n")).with_context(|| format!("write {}", file.display()))
    }

    fn cell(&self, operation: Operation, connections: u32, system: System) -> Vec<&Round> {
        let is_of = |round: &&Round| {
            round.operation == operation && round.connections == connections && round.system == system
        };
        self.rounds.iter().filter(is_of).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        let mut header = vec!["operation", "conn", "system", "op/s", "min..max"];
        header.extend(MEASURES.iter().skip(1).map(|(name, ..)| *name));
        header.push("errors");
        table.set_header(header);
        let mut done = Vec::new();
        for round in &self.rounds {
            let cell = (round.operation, round.connections);
            if done.contains(&cell) {
                continue;
            }
            done.push(cell);
            let hearth = self.cell(cell.0, cell.1, System::Hearth);
            let others = [System::Before, System::Etcd].map(|system| self.cell(cell.0, cell.1, system));
            for rounds in std::iter::once(&hearth).chain(&others) {
                if let Some(first) = rounds.first() {
                    table.add_row(measured_row(first, rounds));
                }
            }
            for other in &others {
                if let (Some(_), Some(first)) = (hearth.first(), other.first()) {
                    table.add_row(ratio_row(cell, first.system, &hearth, other));
                }
            }
        }
        for column in table.column_iter_mut().skip(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// What has to be known before a figure is believed.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for round in &self.rounds {
            let Round { operation, connections, system, number, .. } = round;
            let mut remark = |text: String| {
                remarks.push(format!("{operation} {connections} {system}, round {number}: {text}"));
            };
            if let Some(error) = &round.first_error {
                remark(format!("{} errors, the first: {error}", round.errors));
            }
            if round.client_share > CLIENT_SHARE_MAX {
                remark(format!("the client was the limit: {:.0}% of its thread", round.client_share * 100.0));
            }
            if round.others_cores > DISTURBING_CORES {
                remark(format!("servers without load used {:.2} processors", round.others_cores));
            }
            if round.strangers_cores > DISTURBING_CORES {
                remark(format!("other programs used {:.2} processors", round.strangers_cores));
            }
            if round.leader_changed {
                remark("the leader changed".to_owned());
            }
        }
        remarks
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}\n\n{}", self.programs.join(", "), self.table())?;
        for remark in self.remarks() {
            writeln!(out, "- {remark}")?;
        }
        Ok(())
    }
}

fn measured_row(first: &Round, rounds: &[&Round]) -> Vec<String> {
    let throughputs = || rounds.iter().map(|round| round.measures[0]);
    let (least, most) = (throughputs().fold(f64::INFINITY, f64::min), throughputs().fold(0.0_f64, f64::max));
    let mut row = vec![first.operation.to_string(), first.connections.to_string(), first.system.to_string()];
    let mut medians = MEASURES.iter().zip(medians(rounds)).map(|((.., decimals), value)| {
        if *decimals == 0 { format!("{value:.0}") } else { format!("{value:.decimals$}") }
    });
    row.extend(medians.next());
    row.push(format!("{least:.0}..{most:.0}"));
    row.extend(medians);
    row.push(errors(rounds));
    row
}

fn ratio_row(cell: (Operation, u32), to: System, hearth: &[&Round], other: &[&Round]) -> Vec<String> {
    let mut row = vec![cell.0.to_string(), cell.1.to_string(), format!("hearth/{to}")];
    let mut ratios =
        medians(hearth).into_iter().zip(medians(other)).map(|(ours, theirs)| ratio(ours, theirs));
    row.extend(ratios.next());
    row.push(String::new());
    row.extend(ratios);
    row.push(String::new());
    row
}

fn medians(rounds: &[&Round]) -> [f64; MEASURES.len()] {
    std::array::from_fn(|measure| median(rounds.iter().map(|round| round.measures[measure]).collect()))
}

/// The middle one, or the mean of both in the middle; NaN of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

fn ratio(ours: f64, theirs: f64) -> String {
    let ratio = ours / theirs;
    if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() }
}

/// The sum of all rounds; a cell with too many is marked.
fn errors(rounds: &[&Round]) -> String {
    let errors: u64 = rounds.iter().map(|round| round.errors).sum();
    let operations: u64 = rounds.iter().map(|round| round.operations).sum();
    let is_valid = operations > 0 && errors as f64 <= (operations + errors) as f64 * ERRORS_SHARE_MAX;
    if is_valid { errors.to_string() } else { format!("{errors} INVALID") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(system: System, number: u32, throughput: f64, errors: u64) -> Round {
        Round {
            operation: Operation::Put,
            connections: 64,
            system,
            number,
            operations: 10_000,
            errors,
            first_error: (errors > 0).then(|| "refused".to_owned()),
            measures: [throughput, 1.0, 2.0, 4.0, 80.0, 10.0],
            others_cores: 0.0,
            strangers_cores: 0.0,
            client_share: 0.5,
            leader_changed: false,
        }
    }

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
        assert_eq!(ratio(3.0, 2.0), "1.50");
        assert_eq!(ratio(3.0, 0.0), "-");
        assert_eq!(ratio(f64::NAN, 1.0), "-");
    }

    #[test]
    fn too_many_errors_make_a_cell_invalid() {
        let count = |count| errors(&[&round(System::Etcd, 1, 1.0, count)]);
        assert_eq!((count(0), count(10)), ("0".to_owned(), "10".to_owned()));
        assert_eq!(count(11), "11 INVALID");
        let none = Round { operations: 0, ..round(System::Etcd, 1, 0.0, 0) };
        assert_eq!(errors(&[&none]), "0 INVALID");
    }

    #[test]
    fn rows_have_medians_range_and_ratio() {
        let rounds = [(1, 300.0), (2, 100.0), (3, 200.0)].map(|(number, rate)| {
            [round(System::Hearth, number, rate, 0), round(System::Etcd, number, rate / 2.0, 0)]
        });
        let machine = hearth_cluster::machine::describe(&std::env::temp_dir()).unwrap();
        let report = Report { machine, programs: Vec::new(), rounds: rounds.concat() };
        let table = report.table().to_string();
        let lines: Vec<Vec<&str>> =
            table.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(lines.len(), 5, "{table}");
        assert_eq!(lines[2][1..7], ["put", "64", "hearth", "200", "100..300", "1.000"], "{table}");
        assert_eq!(lines[3][1..7], ["put", "64", "etcd", "100", "50..150", "1.000"], "{table}");
        assert_eq!(lines[4][1..7], ["put", "64", "hearth/etcd", "2.00", "", "1.00"], "{table}");
    }
}
