//! What a command says, and how it ends.

use std::io::Write;

use serde::Serialize;
use serde_json::{Value, json};

/// How a command ends. The numbers are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; for checks: clean.
    Done,
    /// A check found something broken, or what was asked for is refused.
    Broken,
    /// There was nothing to check, or nothing of that name.
    Nothing,
    /// A database or Kafka could not be reached, so the answer is missing or incomplete.
    Unreachable,
    /// The command line is wrong.
    Usage,
}

impl Exit {
    /// The process' exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Broken => 1,
            Self::Nothing => 2,
            Self::Unreachable => 3,
            Self::Usage => 64,
        }
    }
}

/// Everything one command has to say.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// For people, to stdout.
    pub text: String,
    /// For programs, to stdout with `--json`.
    pub json: Value,
    /// Talk, to stderr: what could not be reached, what to do next.
    pub notes: Vec<String>,
    /// The end.
    pub exit: Exit,
}

impl Outcome {
    /// Data in both forms.
    pub fn new(text: impl Into<String>, data: &impl Serialize) -> anyhow::Result<Self> {
        Ok(Self {
            text: text.into(),
            json: serde_json::to_value(data)?,
            notes: vec![],
            exit: Exit::Done,
        })
    }

    #[must_use]
    pub fn with_notes(mut self, notes: Vec<String>) -> Self {
        self.notes.extend(notes);
        self
    }

    #[must_use]
    pub fn ending(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// An error that ended the command.
    pub fn failed(error: &anyhow::Error) -> Self {
        let exit = error
            .downcast_ref::<Refused>()
            .map_or(Exit::Unreachable, |r| r.exit);
        Self {
            text: String::new(),
            json: json!({ "error": format!("{error:#}") }),
            notes: vec![format!("onceward: {error:#}")],
            exit,
        }
    }

    /// Prints. A closed pipe ends the printing, not the process' honour.
    pub fn print(self, as_json: bool, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
        let mut data = if as_json {
            serde_json::to_string_pretty(&self.json).unwrap_or_default()
        } else {
            harmless(&self.text)
        };
        if !data.is_empty() && !data.ends_with('\n') {
            data.push('\n');
        }
        let written = out.write_all(data.as_bytes()).and_then(|()| out.flush());
        for note in self.notes {
            let _ = writeln!(err, "{}", harmless(&note));
        }
        match written {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Exit::Unreachable,
            _ => self.exit,
        }
    }
}

/// Without control characters, which tell a terminal what to do: ids, keys and reasons come from
/// whoever may write to a topic.
fn harmless(text: &str) -> String {
    let harm = |c: char| c.is_control() && c != '\n';
    text.replace(harm, "\u{fffd}")
}

/// A refusal with its exit code; other errors mean that something could not be reached.
#[derive(Debug)]
pub(crate) struct Refused {
    pub exit: Exit,
    pub why: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}
impl std::error::Error for Refused {}

/// Refuses, with exit code 1.
pub(crate) fn refused(why: impl Into<String>) -> anyhow::Error {
    let (exit, why) = (Exit::Broken, why.into());
    Refused { exit, why }.into()
}

/// Nothing of that name, with exit code 2.
pub(crate) fn not_found(why: impl Into<String>) -> anyhow::Error {
    let (exit, why) = (Exit::Nothing, why.into());
    Refused { exit, why }.into()
}

/// A wrong command line that the parser can't see, with exit code 64.
pub(crate) fn usage(why: impl Into<String>) -> anyhow::Error {
    let (exit, why) = (Exit::Usage, why.into());
    Refused { exit, why }.into()
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn what_a_stranger_wrote_does_not_command_the_terminal() {
        let key = "a\u{1b}[2Jb\r\u{9b}c\nd";
        let outcome = Outcome::new(key, &key).unwrap();
        let outcome = outcome.with_notes(vec!["\u{7}note".to_owned()]);
        let (mut out, mut err) = (vec![], vec![]);
        outcome.print(false, &mut out, &mut err);
        let shown = String::from_utf8([out, err].concat()).unwrap();
        assert_eq!(shown, "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\nd\n\u{fffd}note\n");
    }
}
