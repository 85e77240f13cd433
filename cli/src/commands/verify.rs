//! `onceward verify`: the auditor's report for people.

use anyhow::Result;
use auditor::{Audit, ConsumerWindow, Report, Source, SourceWindow, Verdict};

use crate::args::VerifyArgs;
use crate::database::said_clearly;
use crate::kafka;
use crate::locate::Place;
use crate::outcome::{Exit, Outcome};
use crate::render::table;

/// `verify`.
pub(crate) async fn verify(place: &Place, args: &VerifyArgs) -> Result<Outcome> {
    let sources = place.sources.iter().map(|s| Source {
        name: s.name.clone(),
        url: s.url.reveal().to_owned(),
    });
    let (kafka, no_kafka) = match kafka::settings(place) {
        Ok(settings) => (settings, None),
        Err(why) => (vec![], Some(format!("note: {why:#}"))),
    };
    let audit = Audit {
        kafka,
        sources: sources.collect(),
        explain: Some(|url, error| said_clearly(&url.into(), error)),
    };
    let report = auditor::audit(&audit).await?;
    let exit = match report.verdict {
        Verdict::Clean => Exit::Done,
        Verdict::Broken => Exit::Broken,
        Verdict::NothingToCheck => Exit::Nothing,
        Verdict::Incomplete => Exit::Unreachable,
    };
    let notes = no_kafka.into_iter().chain(
        report
            .unreadable
            .iter()
            .map(|why| format!("note: not read: {why}")),
    );
    let notes = notes.collect();
    Ok(Outcome::new(text(&report, args.limit), &report)?
        .with_notes(notes)
        .ending(exit))
}

fn text(report: &Report, limit: usize) -> String {
    let mut parts = vec![];
    if !report.sources.is_empty() {
        parts.push(sources(&report.sources));
    }
    if !report.consumers.is_empty() {
        parts.push(consumers(&report.consumers));
    }
    parts.push(window(report));
    if !report.notes.is_empty() {
        parts.push(report.notes.join("\n"));
    }
    if !report.findings.is_empty() {
        parts.push(findings(report, limit));
    }
    parts.push(verdict(report));
    parts.join("\n\n")
}

fn sources(windows: &[SourceWindow]) -> String {
    let lines = windows.iter().map(|w| {
        vec![
            w.source.clone(),
            w.position.to_string(),
            w.rows.to_string(),
            w.published.to_string(),
            w.pending.to_string(),
            w.parked.to_string(),
            w.discarded.to_string(),
            w.records.to_string(),
        ]
    });
    let headings = [
        "SOURCE",
        "POSITION",
        "ROWS",
        "PUBLISHED",
        "PENDING",
        "PARKED",
        "DISCARDED",
        "RECORDS",
    ];
    table(&headings, lines.collect())
}

fn consumers(windows: &[ConsumerWindow]) -> String {
    let lines = windows.iter().map(|w| {
        vec![
            w.consumer.clone(),
            w.topics.to_string(),
            w.records.to_string(),
            w.handled.to_string(),
            w.waiting.to_string(),
            w.dead.to_string(),
            w.discarded.to_string(),
            w.repeated.to_string(),
            w.ahead.to_string(),
        ]
    });
    let headings = [
        "CONSUMER",
        "TOPICS",
        "RECORDS",
        "HANDLED",
        "WAITING",
        "DEAD",
        "DISCARDED",
        "REPEATED",
        "AHEAD",
    ];
    table(&headings, lines.collect())
}

/// How far back and forward could be seen.
fn window(report: &Report) -> String {
    let records: u64 = report.topics.iter().map(|t| t.records).sum();
    let mut topics: Vec<&str> = report.topics.iter().map(|t| t.topic.as_str()).collect();
    topics.dedup();
    let mut lines = vec![format!(
        "window: {records} records of {} partitions of {} topics, up to each source's POSITION",
        report.topics.len(),
        topics.len()
    )];
    for s in &report.sources {
        let mut limits = vec![];
        if s.lower_position > 0 {
            limits.push(format!(
                "positions up to {} (log retention took records)",
                s.lower_position
            ));
        }
        if s.floor_seq > 0 {
            limits.push(format!(
                "content of rows up to seq {} (purged)",
                s.floor_seq
            ));
        }
        if s.purged > 0 {
            limits.push(format!("{} records without their rows (purged)", s.purged));
        }
        if s.trimmed > 0 {
            limits.push(format!(
                "{} rows whose records retention may have taken",
                s.trimmed
            ));
        }
        if s.newer > 0 {
            limits.push(format!("{} records newer than the window", s.newer));
        }
        if !limits.is_empty() {
            lines.push(format!(
                "not checkable in {}: {}",
                s.source,
                limits.join("; ")
            ));
        }
    }
    for c in report.consumers.iter().filter(|c| c.below_floor > 0) {
        lines.push(format!(
            "not checkable in {}: {} records below the inbox floor (purged)",
            c.consumer, c.below_floor
        ));
    }
    lines.join("\n")
}

fn findings(report: &Report, limit: usize) -> String {
    let mut lines: Vec<String> = report
        .findings
        .iter()
        .take(limit)
        .map(|f| {
            let id = f
                .message_id
                .as_ref()
                .map_or_else(String::new, |id| format!("{id} "));
            format!("{}: {}: {id}{}", f.kind.label(), f.who, f.text)
        })
        .collect();
    let total: u64 = report.counts.values().sum();
    let told = lines.len() as u64;
    if total > told {
        lines.push(format!("… and {} more (--limit, --json)", total - told));
    }
    lines.join("\n")
}

fn verdict(report: &Report) -> String {
    match report.verdict {
        Verdict::Clean => {
            "clean: every row once, in order; every record handled, waiting or dead".to_owned()
        }
        Verdict::NothingToCheck => "nothing to check: no rows and no records".to_owned(),
        Verdict::Incomplete => {
            "incomplete: nothing wrong in what could be read, but not all could be read".to_owned()
        }
        Verdict::Broken => {
            let counts = report.counts.iter();
            let all: Vec<String> = counts
                .map(|(kind, n)| format!("{n} {}", kind.label()))
                .collect();
            format!("BROKEN: {}", all.join(", "))
        }
    }
}
