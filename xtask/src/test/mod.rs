//! `./dev test`: everything that must hold, and one line at the end that says whether it does.
//!
//! A step that fails stops no other one. What failed is repeated at the end: nobody has to scroll.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::{Result, api, cargo, deps, package};

mod report;

use report::Report;

/// A step, its duration and, if it failed, why.
struct Step {
    name: &'static str,
    took: Duration,
    failed: Option<String>,
}

/// Runs all checks and all tests, or only the tests whose names contain `filter`; fails if anything
/// failed or if there was no test at all.
pub fn run(filter: Option<&str>) -> Result<()> {
    let begun = Instant::now();
    let mut report = Report::default();
    let mut steps = Vec::new();
    let mut step = |name: &'static str, work: &mut dyn FnMut() -> Result<()>| {
        let start = Instant::now();
        println!("== {name}");
        let failed = work().err().map(|error| format!("{error:#}"));
        let took = start.elapsed();
        let outcome = failed.as_ref().map_or("fine", |_| "FAILED");
        println!("== {name}: {outcome} ({:.0} s)\n", took.as_secs_f32());
        steps.push(Step { name, took, failed });
    };
    if filter.is_none() {
        step("format", &mut || cargo(&["fmt", "--all", "--check"]));
        step("dependency rules", &mut deps::check);
        step("packages", &mut || package::check(package::Depth::Contents));
        step("clippy", &mut || {
            cargo(&[
                "clippy",
                "-q",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ])
        });
    }
    // The process tests start these.
    step("binaries", &mut || {
        cargo(&["build", "-q", "--workspace", "--bins", "--locked"])
    });
    step("tests", &mut || tests(filter, &mut report));
    if filter.is_none() {
        step("API documents", &mut || api::check(&api::Options::short()));
        step("documentation", &mut || {
            let mut command = cargo_command(&["doc", "-q", "--workspace", "--no-deps", "--locked"]);
            run_quietly(command.env("RUSTDOCFLAGS", "-D warnings"))
        });
    }
    let sound = print_summary(&steps, &report, begun.elapsed())?;
    if !sound {
        // Said above; the last line stays the count.
        std::process::exit(1);
    }
    Ok(())
}

/// Prints what failed, what took how long, and the count. True if all is well.
fn print_summary(steps: &[Step], report: &Report, took: Duration) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    for failure in &report.failures {
        writeln!(out, "---- {} FAILED", failure.title())?;
        writeln!(out, "{}\n", failure.output.trim_end())?;
    }
    for step in steps {
        let outcome = match &step.failed {
            None => "fine".to_owned(),
            Some(why) => format!("FAILED: {why}"),
        };
        writeln!(
            out,
            "{:>6.1} s  {:<18}{outcome}",
            step.took.as_secs_f32(),
            step.name
        )?;
    }
    writeln!(out, "{:>6.1} s  altogether", took.as_secs_f32())?;
    for failure in &report.failures {
        writeln!(out, "failed: {}", failure.title())?;
    }
    let failed = report.failed + checks_failed(steps, report);
    if report.passed + failed == 0 {
        writeln!(out, "no test ran at all: no name contains that")?;
    }
    writeln!(out, "{} passed, {failed} failed", report.passed)?;
    out.flush()?;
    Ok(failed == 0 && report.passed > 0)
}

/// Failed steps count as one each; "tests" only when it failed without a failing test (it did not
/// compile).
fn checks_failed(steps: &[Step], report: &Report) -> u64 {
    steps
        .iter()
        .filter(|step| step.failed.is_some())
        .filter(|step| step.name != "tests" || report.failed == 0)
        .count() as u64
}

fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = cargo::command();
    command.args(arguments).stdin(Stdio::null());
    if std::env::var_os("CI").is_some() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

fn cargo(arguments: &[&str]) -> Result<()> {
    run_quietly(&mut cargo_command(arguments))
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let status = command.status().context("starting cargo")?;
    if !status.success() {
        bail!("see above");
    }
    Ok(())
}

/// Runs the tests, shows their output as it comes, and reads what cargo and libtest report.
fn tests(filter: Option<&str>, report: &mut Report) -> Result<()> {
    let mut command = cargo_command(&["test", "--workspace", "--no-fail-fast", "--locked"]);
    command.args(["--color", "never"]).args(filter); // colours would hide what is read here
    // One pipe for both, so that cargo's "Running …" stands before what that program says.
    let (output, both) = std::io::pipe()?;
    let mut child = command
        .stdout(both.try_clone()?)
        .stderr(both)
        .spawn()
        .context("starting cargo test")?;
    drop(command); // it holds the pipe's other end
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        report.read(&line);
    }
    report.end();
    if !child.wait()?.success() {
        bail!("see above");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    use super::report::Report;
    use super::{Step, checks_failed, deps};

    fn step(name: &'static str, failed: bool) -> Step {
        Step {
            name,
            took: Duration::ZERO,
            failed: failed.then(|| "see above".to_owned()),
        }
    }

    #[test]
    fn tests_that_do_not_compile_count_as_a_failure() {
        let steps = [step("format", false), step("tests", true)];
        let mut report = Report::default();
        assert_eq!(checks_failed(&steps, &report), 1);
        report.failed = 2;
        assert_eq!(checks_failed(&steps, &report), 0);
    }

    #[test]
    fn each_failed_check_counts_as_one() {
        let steps = [
            step("format", true),
            step("clippy", true),
            step("tests", false),
        ];
        assert_eq!(checks_failed(&steps, &Report::default()), 2);
    }

    /// Cargo builds no test program for a target with `test = false`: a test in it would never run.
    #[test]
    fn a_target_without_a_test_program_has_no_tests() {
        let metadata: serde_json::Value = serde_json::from_str(&deps::metadata().unwrap()).unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        let targets = packages
            .iter()
            .flat_map(|p| p["targets"].as_array().unwrap());
        let without = targets.filter(|target| target["test"] == false);
        let mut seen = 0;
        for target in without.filter(|target| target["kind"][0] != "custom-build") {
            let root = Path::new(target["src_path"].as_str().unwrap());
            let beside_a_library = root.with_file_name("lib.rs").exists();
            let its = match target["kind"][0] == "bin" && beside_a_library {
                true => root,
                false => root.parent().unwrap(),
            };
            let mut grep = Command::new("grep");
            let grep = grep
                .args(["-rlE", r"^\s*(#\[(tokio::)?test\]|proptest!)"])
                .arg(its);
            let found = String::from_utf8(grep.output().unwrap().stdout).unwrap();
            assert_eq!(found, "", "never run: {}", target["name"]);
            seen += 1;
        }
        assert!(
            seen > 10,
            "only {seen} looked at: are these still the names?"
        );
    }
}
