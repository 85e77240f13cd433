//! `./dev test`: everything that must hold, and one line at the end that says whether it does.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

use crate::Result;
use crate::deps;
use crate::layout::root;

/// What was counted so far.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct Count {
    /// Tests that passed.
    pub passed: u64,
    /// Tests and checks that failed.
    pub failed: u64,
}

/// Runs all checks and all tests; fails if anything failed or if there was no test at all.
pub fn run() -> Result<()> {
    let begun = Instant::now();
    let mut count = Count::default();
    let mut broken = Vec::new();
    let mut check = |name: &str, work: &mut dyn FnMut() -> Result<()>| {
        let start = Instant::now();
        println!("== {name}");
        let outcome = work();
        let took = start.elapsed().as_secs();
        match outcome {
            Ok(()) => println!("== {name}: fine ({took} s)\n"),
            Err(error) => {
                println!("== {name}: FAILED ({took} s): {error:#}\n");
                broken.push(name.to_owned());
            }
        }
    };
    check("format", &mut || cargo(&["fmt", "--all", "--check"]));
    check("dependency rules", &mut deps::check);
    check("clippy", &mut || {
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
    // The process tests start these.
    check("binaries", &mut || {
        cargo(&["build", "-q", "--workspace", "--bins", "--locked"])
    });
    check("tests", &mut || tests(&mut count));
    check("documentation", &mut || {
        let mut command = cargo_command(&["doc", "-q", "--workspace", "--no-deps", "--locked"]);
        run_quietly(command.env("RUSTDOCFLAGS", "-D warnings"))
    });
    let (passed, failed) = (count.passed, count.failed + checks_failed(&broken, count));
    println!("took {} s", begun.elapsed().as_secs());
    if !broken.is_empty() {
        println!("failed: {}", broken.join(", "));
    }
    if passed == 0 {
        println!("no test ran at all");
    }
    println!("{passed} passed, {failed} failed");
    std::io::stdout().flush()?;
    if failed > 0 || passed == 0 {
        // Said above; the last line stays the count.
        std::process::exit(1);
    }
    Ok(())
}

/// Failed checks count as one each; "tests" only when it failed without a failing test (it did not
/// compile, or a test binary died).
fn checks_failed(broken: &[String], count: Count) -> u64 {
    let counted = |name: &&String| name.as_str() != "tests" || count.failed == 0;
    broken.iter().filter(counted).count() as u64
}

fn cargo_command(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(arguments)
        .stdin(Stdio::null());
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

/// Runs the tests, shows their output as it comes, and sums what libtest reports.
fn tests(count: &mut Count) -> Result<()> {
    let mut command = cargo_command(&["test", "--workspace", "--no-fail-fast", "--locked"]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let output = child.stdout.take().context("no output of cargo test")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(more) = parse_result(&line) {
            count.passed += more.passed;
            count.failed += more.failed;
        }
    }
    if !child.wait()?.success() {
        bail!("see above");
    }
    Ok(())
}

/// Reads `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
pub fn parse_result(line: &str) -> Option<Count> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |unit: &str| {
        numbers
            .split("; ")
            .find_map(|part| part.trim().strip_suffix(unit)?.trim().parse::<u64>().ok())
    };
    Some(Count {
        passed: number("passed")?,
        failed: number("failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Count, checks_failed, parse_result};

    #[test]
    fn libtest_lines_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(
            parse_result(line),
            Some(Count {
                passed: 12,
                failed: 3
            })
        );
        assert_eq!(parse_result("running 3 tests"), None);
    }

    #[test]
    fn tests_that_do_not_compile_count_as_a_failure() {
        let broken = ["tests".to_owned()];
        assert_eq!(
            checks_failed(
                &broken,
                Count {
                    passed: 9,
                    failed: 0
                }
            ),
            1
        );
        assert_eq!(
            checks_failed(
                &broken,
                Count {
                    passed: 9,
                    failed: 2
                }
            ),
            0
        );
    }
}
