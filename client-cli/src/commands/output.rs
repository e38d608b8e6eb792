//! Results on stdout: tables for people, JSON for programs.

use std::io::{self, BufWriter, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::failure::Failure;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Tables and sentences.
    #[default]
    Table,
    /// JSON: one value on one line, or one line for each key or change.
    Json,
}

/// Where results go. Buffered: [`Output::finish`] must be called at the end.
pub struct Output<'a> {
    /// The format that was asked for.
    pub format: Format,
    /// Whether a person watches: lines may be completed and tables fitted to the width.
    terminal: bool,
    sink: Box<dyn Write + 'a>,
    /// Where remarks go that are no result.
    notes: Box<dyn Write + 'a>,
}

/// A table that is written part by part: columns only get wider.
pub struct Columns<const N: usize> {
    header: [&'static str; N],
    /// In characters.
    widths: [usize; N],
    /// How many columns are shown.
    shown: usize,
    header_written: bool,
}

impl Output<'_> {
    /// To the standard output of this process.
    pub fn to_stdout(format: Format) -> Output<'static> {
        let stdout = io::stdout();
        let sink = Box::new(BufWriter::new(io::stdout()));
        Output { format, terminal: stdout.is_terminal(), sink, notes: Box::new(io::stderr()) }
    }

    /// To writers that are no terminals, the second one for remarks.
    pub fn to_writers<'a>(format: Format, sink: impl Write + 'a, notes: impl Write + 'a) -> Output<'a> {
        Output { format, terminal: false, sink: Box::new(sink), notes: Box::new(notes) }
    }

    /// Tells a person something that is no result: on stderr, on a line of its own. Results that are to come
    /// before it must have been handed to the system: see [`Output::finish`].
    pub fn note(&mut self, text: &str) {
        // A closed stderr leaves nowhere to tell it.
        let _ = writeln!(self.notes, "hearth: {}", printable(text));
    }

    /// Writes one line of text.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.sink.write_all(text.as_bytes())?;
        Ok(self.sink.write_all(b"\n")?)
    }

    /// Writes a value as one line of JSON.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        // serde_json hides an I/O error in its own: serialise first, so that a broken pipe stays one.
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::Failed(format!("the result is no JSON: {error}")))?;
        self.line(&text)
    }

    /// Writes bytes as they are; on a terminal, the last line is completed.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.sink.write_all(bytes)?;
        if self.terminal && !bytes.ends_with(b"\n") {
            self.sink.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Writes a table without borders, two spaces between columns. On a terminal that is too narrow, cells
    /// break into several lines.
    pub fn table<const N: usize>(
        &mut self,
        header: [&str; N],
        rows: Vec<[String; N]>,
    ) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.force_no_tty();
        }
        table.set_header(header.to_vec());
        for row in rows {
            table.add_row(row.map(|cell| printable(&cell)).to_vec());
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let text = table.trim_fmt();
        self.line(&text)
    }

    /// Hands everything to the system.
    pub fn finish(&mut self) -> Result<(), Failure> {
        Ok(self.sink.flush()?)
    }
}

impl<const N: usize> Columns<N> {
    /// Each column as wide as its header, at first.
    pub fn new(header: [&'static str; N]) -> Self {
        Self { header, widths: header.map(str::len), shown: N, header_written: false }
    }

    /// Each column this wide from the beginning, for rows that come one at a time.
    pub fn at_least(mut self, widths: [usize; N]) -> Self {
        for (width, least) in self.widths.iter_mut().zip(widths) {
            *width = (*width).max(least);
        }
        self
    }

    /// Leaves out the last column.
    pub fn hide_last(&mut self) {
        self.shown = self.shown.saturating_sub(1);
    }

    /// Writes rows, and before the first of them the header; two spaces between columns.
    pub fn write(&mut self, rows: Vec<[String; N]>, output: &mut Output<'_>) -> Result<(), Failure> {
        let rows: Vec<_> = rows.into_iter().map(|row| row.map(|cell| printable(&cell))).collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if !self.header_written {
            self.header_written = true;
            output.line(&self.line(self.header.iter().copied()))?;
        }
        rows.iter().try_for_each(|row| output.line(&self.line(row.iter().map(String::as_str))))
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a str>) -> String {
        let padded = cells.zip(self.widths).take(self.shown).map(|(cell, width)| format!("{cell:width$}  "));
        padded.collect::<String>().trim_end().to_owned()
    }
}

/// `text` without characters that would break a line or steer a terminal: each becomes `�`.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A number of bytes in the largest binary unit below it: `0 B`, `1.5 KiB`, `40.1 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // In tenths, rounded down: no float, and never "1024.0 KiB".
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = UNITS.iter();
    let mut name = unit.next();
    while tenths >= 10_240 {
        let Some(larger) = unit.next() else { break };
        name = Some(larger);
        tenths /= 1024;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, name.copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{Columns, Format, Output, size};

    #[test]
    fn sizes_have_one_decimal() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 20, "1.0 MiB"),
            (43_056_000_000, "40.0 GiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }

    #[test]
    fn tables_align_and_have_no_trailing_blanks() {
        let mut written = Vec::new();
        let mut output = Output::to_writers(Format::Table, &mut written, std::io::sink());
        let rows = vec![["n1".to_owned(), "leader".to_owned()], ["long\nname".to_owned(), String::new()]];
        output.table(["NODE", "STATE"], rows).unwrap();
        drop(output);
        assert_eq!(String::from_utf8(written).unwrap(), "NODE       STATE\nn1         leader\nlong�name\n");
    }
    #[test]
    fn columns_only_get_wider() {
        let mut written = Vec::new();
        let mut output = Output::to_writers(Format::Table, &mut written, std::io::sink());
        let mut columns = Columns::new(["A", "KEY", "VALUE"]);
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        columns.write(vec![row(["1", "long key", "x"]), row(["é2", "k", ""])], &mut output).unwrap();
        columns.write(vec![row(["3", "k", "a\nb"])], &mut output).unwrap();
        columns.hide_last();
        columns.write(vec![row(["4", "k", "x"])], &mut output).unwrap();
        drop(output);
        let expected = "A   KEY       VALUE\n1   long key  x\né2  k\n3   k         a�b\n4   k\n";
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }
}
