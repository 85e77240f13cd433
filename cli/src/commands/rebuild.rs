//! `onceward consumer rebuild`: finds the consumer's database and has its own program do it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use onceward::consumer::rebuild::Since;
use serde_json::{Value, json};

use crate::args::RebuildWish;
use crate::database::{self, on};
use crate::locate::{Place, Source};
use crate::outcome::{Exit, Outcome, not_found};
use crate::render::exact_time;

pub(crate) async fn rebuild(place: &Place, wish: &RebuildWish, as_json: bool) -> Result<Outcome> {
    let source = source_of(place, &wish.consumer).await?;
    let mut command = Command::new(program(&wish.program));
    command
        .args(["rebuild", &source.name, "--into"])
        .arg(&wish.into)
        .arg("--from")
        .arg(match wish.from {
            Since::Beginning => "beginning".to_owned(),
            Since::Time(at) => exact_time(at),
        })
        .args(as_json.then_some("--json"))
        .args(&wish.arguments)
        // Not as arguments, which others can see.
        .env("ONCEWARD_DATABASE", source.url.reveal())
        .env_remove("ONCEWARD_DATABASE_FILE");
    if let Some(kafka) = &place.kafka {
        command.envs(kafka.environment());
    }
    let shown = wish.program.display();
    let said = tokio::task::spawn_blocking(move || command.output()).await?;
    let said = said.with_context(|| format!("{shown} can't be run; name it by --program"))?;
    let exit = match said.status.code() {
        Some(0) => Exit::Done,
        Some(1) => Exit::Broken,
        Some(2) => Exit::Nothing,
        Some(64) => Exit::Usage,
        _ => Exit::Unreachable,
    };
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let notes = String::from_utf8_lossy(&said.stderr);
    let json = match as_json {
        true => serde_json::from_str(&text).unwrap_or_else(|_| json!({ "error": notes.trim() })),
        false => Value::Null,
    };
    Ok(Outcome::new(text, &json)?
        .with_notes(notes.lines().map(str::to_owned).collect())
        .ending(exit))
}

/// The database that this consumer keeps its offsets in.
pub(super) async fn source_of<'p>(place: &'p Place, consumer: &str) -> Result<&'p Source> {
    let (open, failed) = database::open_all(place, None).await?;
    let mut known = Vec::new();
    for mut reading in open {
        let names: Vec<String> = on!(&mut reading.connection, c => {
            sqlx::query_scalar("select distinct consumer from consumer_offset").fetch_all(c).await?
        });
        if names.iter().any(|name| name == consumer) {
            return Ok(reading.source);
        }
        known.extend(names);
    }
    known.sort();
    let unread: String = database::talk(&failed)
        .iter()
        .map(|line| format!("\n{line}"))
        .collect();
    Err(not_found(format!(
        "no database knows consumer {consumer:?}; there are {}{unread}",
        known.join(", ")
    )))
}

/// Beside this program, or else wherever the system looks.
fn program(wanted: &Path) -> PathBuf {
    let beside = std::env::current_exe().ok();
    let beside = beside.and_then(|own| Some(own.parent()?.join(wanted)));
    match beside {
        Some(found) if wanted.components().count() == 1 && found.exists() => found,
        _ => wanted.to_owned(),
    }
}
