//! `./dev logs`: the end of the log files, and what is added to them.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use onceward_testkit::process::tail;

use crate::Result;
use crate::layout::{Data, called};

/// Prints the last `lines` lines of one log, or of each; with `follow` goes on for ever.
pub fn print(data: &Data, name: Option<&str>, lines: usize, follow: bool) -> Result<()> {
    let mut logs = find(data, name)?;
    for log in logs.values_mut() {
        let text = log.read_new()?;
        log.print(&tail(&text, lines))?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        std::thread::sleep(Duration::from_millis(100));
        if name.is_none() {
            for (name, log) in find(data, None)? {
                logs.entry(name).or_insert(log); // started meanwhile
            }
        }
        for log in logs.values_mut() {
            let text = log.read_new()?;
            log.print(&text)?;
        }
    }
}

/// One log file and how far it has been read.
struct Log {
    path: std::path::PathBuf,
    prefix: String,
    read: u64,
}

fn find(data: &Data, only: Option<&str>) -> Result<BTreeMap<String, Log>> {
    let mut names: Vec<String> = std::fs::read_dir(data.logs())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".log")?.to_owned()))
        .collect();
    names.sort();
    if let Some(only) = only {
        if names.is_empty() {
            bail!("there are no logs yet: start with ./dev up");
        }
        let known = names.iter().map(String::as_str);
        let Some(found) = called(only, known).map(str::to_owned) else {
            bail!(
                "there is no log of {only:?}; there are {}",
                names.join(", ")
            );
        };
        names = vec![found];
    }
    let width = names.iter().map(String::len).max().unwrap_or(0);
    Ok(names
        .into_iter()
        .map(|name| {
            let prefix = match only {
                Some(_) => String::new(),
                None => format!("{name:<width$} | "),
            };
            (
                name.clone(),
                Log {
                    path: data.log(&name),
                    prefix,
                    read: 0,
                },
            )
        })
        .collect())
}

impl Log {
    /// Whole lines added since the last call; a file that became shorter is a new one.
    fn read_new(&mut self) -> Result<String> {
        let bytes = read_from(&self.path, &mut self.read)?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        self.read += whole as u64;
        Ok(String::from_utf8_lossy(&bytes[..whole]).into_owned())
    }

    fn print(&self, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        for line in text.lines() {
            writeln!(out, "{}{line}", self.prefix)?;
        }
        out.flush()
    }
}

fn read_from(path: &Path, from: &mut u64) -> Result<Vec<u8>> {
    let Ok(mut file) = std::fs::File::open(path) else {
        return Ok(Vec::new());
    };
    if file.metadata()?.len() < *from {
        *from = 0;
    }
    file.seek(SeekFrom::Start(*from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
