//! `./dev ps`: what runs.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::Result;
use crate::control;
use crate::layout::Data;
use crate::manifest::{Manifest, Process, State};

/// Prints the processes as a table or as the manifest's JSON; says so when nothing runs.
pub fn print(data: &Data, json: bool) -> Result<()> {
    let manifest = Manifest::read(&data.manifest())?;
    let runs = control::running(data)?;
    let mut processes = manifest
        .map(|manifest| manifest.processes)
        .unwrap_or_default();
    if runs.is_none() {
        // The supervisor was killed; what it started died with it.
        for process in &mut processes {
            (process.pid, process.state) = (None, State::Stopped);
        }
    }
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&processes)?)?;
    } else if let Some(pid) = runs {
        out.write_all(table(&processes).as_bytes())?;
        writeln!(
            out,
            "supervisor: pid {pid}; logs in {}",
            data.logs().display()
        )?;
    } else {
        writeln!(out, "nothing runs here: start it with ./dev up")?;
    }
    Ok(())
}

/// The processes as lines of a table.
pub fn table(processes: &[Process]) -> String {
    let mut text = format!(
        "{:<18}{:<10}{:>8}{:>7}  {}\n",
        "NAME", "STATE", "PID", "PORT", "URL"
    );
    for process in processes {
        let or_dash = |number: Option<u32>| number.map_or("-".to_owned(), |n| n.to_string());
        let restarted = match process.restarts {
            0 => String::new(),
            1 => "  (restarted once)".to_owned(),
            more => format!("  (restarted {more} times)"),
        };
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "{:<18}{:<10}{:>8}{:>7}  {}{restarted}",
            process.name,
            process.state.word(),
            or_dash(process.pid),
            or_dash(process.port.map(u32::from)),
            process.url.as_deref().unwrap_or("-"),
        );
    }
    text
}
