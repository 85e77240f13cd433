//! Reads the output of `cargo test`: counts, names and outputs of failing tests, programs that died.
//!
//! libtest prints, per test program:
//!
//! ```text
//!      Running tests/main.rs (target/debug/deps/main-0123)
//! running 2 tests
//! test a_name ... FAILED
//! failures:
//! ---- a_name stdout ----
//! what the test said
//! failures:
//!     a_name
//! test result: FAILED. 1 passed; 1 failed; 0 ignored; …
//! ```

/// A failing test, or a test program that ended without a result.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The program, as cargo names it.
    pub(super) program: String,
    /// The test; empty if the program died.
    pub(super) test: String,
    /// What it said.
    pub(super) output: String,
}

impl Failure {
    /// The test and where it stands.
    pub(super) fn title(&self) -> String {
        match self.test.as_str() {
            "" => format!("{} (it ended without a result)", self.program),
            test => format!("{test} in {}", self.program),
        }
    }
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Tests that passed.
    pub(super) passed: u64,
    /// Tests that failed, and programs that died.
    pub(super) failed: u64,
    /// In the order in which they were reported.
    pub(super) failures: Vec<Failure>,
    program: Option<String>,
    /// The last lines of the program that runs, in case it dies.
    last: Vec<String>,
    in_output: bool,
}

const LAST_LINES: usize = 20;

impl Report {
    /// Reads the next line.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(program) = program(line) {
            self.end();
            self.program = Some(program);
            return;
        }
        if let Some((passed, failed)) = result(line) {
            self.passed += passed;
            self.failed += failed;
            (self.program, self.in_output) = (None, false);
            self.last.clear();
            return;
        }
        let Some(program) = &self.program else {
            return; // cargo's own talk
        };
        if self.last.len() == LAST_LINES {
            self.last.remove(0);
        }
        self.last.push(line.to_owned());
        let title = line.strip_prefix("---- ");
        if let Some(test) = title.and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.in_output = true;
            self.failures.push(Failure {
                program: program.clone(),
                test: test.to_owned(),
                output: String::new(),
            });
        } else if line == "failures:" {
            self.in_output = false; // before the outputs, and again before the list of names
        } else if let (true, Some(failure)) = (self.in_output, self.failures.last_mut()) {
            failure.output.push_str(line);
            failure.output.push('\n');
        }
    }

    /// The output, or that of one program, has ended: without a result it has died.
    pub(super) fn end(&mut self) {
        if let Some(program) = self.program.take() {
            self.failed += 1;
            self.in_output = false;
            self.failures.push(Failure {
                program,
                test: String::new(),
                output: self.last.join("\n"),
            });
        }
        self.last.clear();
    }
}

/// `     Running tests/main.rs (target/debug/deps/main-0123)` or `   Doc-tests onceward`.
fn program(line: &str) -> Option<String> {
    let trimmed = line.trim_start();
    if trimmed.len() == line.len() {
        return None; // a test's own word
    }
    if let Some(name) = trimmed.strip_prefix("Doc-tests ") {
        return Some(format!("doc-tests of {name}"));
    }
    let (source, binary) = trimmed.strip_prefix("Running ")?.rsplit_once(" (")?;
    let file = binary.strip_suffix(')')?.rsplit('/').next()?;
    // Without the hash; many are called tests/main.rs or src/lib.rs.
    let name = file.rsplit_once('-').map_or(file, |(name, _)| name);
    Some(format!("{name} ({source})"))
}

/// Passed and failed of `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
fn result(line: &str) -> Option<(u64, u64)> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |unit: &str| {
        numbers
            .split("; ")
            .find_map(|part| part.trim().strip_suffix(unit)?.trim().parse::<u64>().ok())
    };
    Some((number("passed")?, number("failed")?))
}

#[cfg(test)]
mod tests {
    use super::{Report, result};

    fn read(text: &str) -> Report {
        let mut report = Report::default();
        for line in text.lines() {
            report.read(line);
        }
        report.end();
        report
    }

    #[test]
    fn libtest_lines_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(result(line), Some((12, 3)));
        assert_eq!(result("running 3 tests"), None);
    }

    #[test]
    fn failing_tests_are_kept_with_their_output() {
        let report = read(
            "
   Compiling xtask v0.1.0
     Running unittests src/lib.rs (target/debug/deps/xtask-1f2e)
running 2 tests
test fine ... ok
test broken ... FAILED
test also_broken ... FAILED

failures:

---- broken stdout ----
thread 'broken' panicked at src/lib.rs:1:1:
left is not right

---- also_broken stdout ----
no

failures:
    broken
    also_broken

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

error: test failed, to rerun pass `-p xtask --lib`
   Doc-tests xtask
running 1 test
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
",
        );
        assert_eq!((report.passed, report.failed), (2, 2));
        let titles: Vec<String> = report.failures.iter().map(super::Failure::title).collect();
        assert_eq!(
            titles,
            [
                "broken in xtask (unittests src/lib.rs)",
                "also_broken in xtask (unittests src/lib.rs)"
            ]
        );
        assert!(report.failures[0].output.ends_with("left is not right\n\n"));
        assert_eq!(report.failures[1].output, "no\n\n");
    }

    #[test]
    fn a_test_program_that_dies_is_a_failure() {
        let report = read(
            "
     Running tests/main.rs (target/debug/deps/main-77)
running 2 tests
test fine ... ok
error: test failed, to rerun pass `-p order --test main`
     Running tests/other.rs (target/debug/deps/other-78)
running 1 test
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
",
        );
        assert_eq!((report.passed, report.failed), (1, 1));
        assert_eq!(
            report.failures[0].title(),
            "main (tests/main.rs) (it ended without a result)"
        );
        assert!(report.failures[0].output.contains("--test main"));
    }
}
