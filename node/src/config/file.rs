//! The TOML file, flattened to the names that the keys have.

use std::path::Path;

use toml::{Table, Value};

/// The file's keys with their values as text, in the file's order. A table `[raft]` with `x` is the
/// key `raft_x`; an array is several values.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Vec<String>)>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        // The whole message draws the line with a caret; one line is enough.
        let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        format!("line {line}: {}", error.message().replace('\n', " "))
    })?;
    let mut keys = Vec::new();
    flatten("", &table, &mut keys)?;
    Ok(keys)
}

fn flatten(prefix: &str, table: &Table, keys: &mut Vec<(String, Vec<String>)>) -> Result<(), String> {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}_{name}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, keys)?,
            Value::Array(items) => {
                let items = items.iter().map(|item| scalar(&key, item)).collect::<Result<_, _>>()?;
                keys.push((key, items));
            }
            other => {
                let value = scalar(&key, other)?;
                keys.push((key, vec![value]));
            }
        }
    }
    Ok(())
}

fn scalar(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(flag) => Ok(flag.to_string()),
        other => Err(format!("{key}: a {} is not a value here", other.type_str())),
    }
}

/// `; did you mean …?` when a key is close.
pub(super) fn suggestion(key: &str, keys: &clap::Command) -> String {
    let closest = keys
        .get_arguments()
        .map(|arg| (strsim::jaro_winkler(key, arg.get_id().as_str()), arg.get_id().as_str()))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match closest {
        Some((likeness, name)) if likeness > 0.8 => format!("; did you mean {name}?"),
        _ => String::new(),
    }
}
