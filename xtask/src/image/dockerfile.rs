//! The `Dockerfile`, and its steps done by hand.
//!
//! Each stage gets a folder that stands for its root. Packages are not installed: what the build needs
//! must be here already, and what the image gets is held against what its programs are linked to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::Result;
use crate::layout::root;

/// What the `Dockerfile` says, in order.
#[derive(Debug)]
pub struct Dockerfile {
    /// Its stages; the last one becomes the image.
    pub stages: Vec<Stage>,
}

/// From one `FROM` to the next.
#[derive(Debug)]
pub struct Stage {
    /// The image it begins with.
    pub base: String,
    /// What other stages call it.
    pub name: Option<String>,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// One instruction.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A line for the shell, without its mounts.
    Run(String),
    /// Where the next lines run.
    Workdir(String),
    /// Files of the repository, or of another stage.
    Copy {
        /// The other stage.
        from: Option<String>,
        /// What.
        what: String,
        /// Where to.
        to: String,
    },
    /// Who runs the programs.
    User(String),
    /// What runs if nothing else is said.
    Cmd(Vec<String>),
}

impl Dockerfile {
    /// Reads the repository's file.
    pub fn read() -> Result<Self> {
        let path = root().join("Dockerfile");
        Self::parse(&std::fs::read_to_string(&path).context("reading Dockerfile")?)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut stages: Vec<Stage> = Vec::new();
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
        for line in joined.lines().filter(|line| !line.trim().is_empty()) {
            let (word, rest) = line.trim().split_once(' ').context("a lone word")?;
            if word == "FROM" {
                let (base, name) = match rest.split_once(" AS ") {
                    Some((base, name)) => (base, Some(name.trim().to_owned())),
                    None => (rest, None),
                };
                stages.push(Stage {
                    base: base.trim().to_owned(),
                    name,
                    steps: Vec::new(),
                });
                continue;
            }
            let stage = stages.last_mut().context("a Dockerfile begins with FROM")?;
            stage.steps.push(step(word, rest)?);
        }
        Ok(Self { stages })
    }

    /// The stage that becomes the image.
    pub fn last(&self) -> Result<&Stage> {
        self.stages.last().context("a Dockerfile without a stage")
    }

    /// Does the steps of all stages below `folder`, and gives the folder that stands for the image's
    /// root.
    pub fn build(&self, folder: &Path) -> Result<PathBuf> {
        let mut done: BTreeMap<&str, PathBuf> = BTreeMap::new();
        let mut place = PathBuf::new();
        for (number, stage) in self.stages.iter().enumerate() {
            place = folder.join(format!("stage-{number}"));
            std::fs::create_dir_all(&place)?;
            stage.build(&place, &done)?;
            if let Some(name) = &stage.name {
                done.insert(name, place.clone());
            }
        }
        Ok(place)
    }
}

fn step(word: &str, rest: &str) -> Result<Step> {
    let mut words: Vec<&str> = rest.split_whitespace().collect();
    Ok(match word {
        "RUN" => {
            words.retain(|word| !word.starts_with("--mount="));
            Step::Run(words.join(" "))
        }
        "WORKDIR" => Step::Workdir(rest.to_owned()),
        "USER" => Step::User(rest.to_owned()),
        "CMD" => Step::Cmd(serde_json::from_str(rest).context("CMD takes a list")?),
        "COPY" => {
            let from = words.first().and_then(|word| word.strip_prefix("--from="));
            let from = from.map(str::to_owned);
            let [what, to] = words[usize::from(from.is_some())..] else {
                bail!("COPY takes one source and one destination: {rest}");
            };
            Step::Copy {
                from,
                what: what.to_owned(),
                to: to.to_owned(),
            }
        }
        other => bail!("this has not learnt {other}"),
    })
}

impl Stage {
    /// The packages that it installs.
    pub fn packages(&self) -> Vec<&str> {
        let runs = self.steps.iter().filter_map(|step| match step {
            Step::Run(line) => line.split_once("apt-get install "),
            _ => None,
        });
        let words =
            runs.flat_map(|(_, rest)| rest.split_whitespace().take_while(|word| *word != "&&"));
        words.filter(|word| !word.starts_with('-')).collect()
    }

    /// The user that its programs run as, by number; `None` = root.
    pub fn uid(&self) -> Option<u32> {
        let name = self.steps.iter().find_map(|step| match step {
            Step::User(name) => Some(name),
            _ => None,
        })?;
        self.steps.iter().find_map(|step| match step {
            Step::Run(line) => {
                let (_, rest) = line.split_once("useradd ")?;
                let words: Vec<&str> = rest.split_whitespace().collect();
                let uid = words.iter().position(|word| *word == "--uid")? + 1;
                words
                    .contains(&name.as_str())
                    .then_some(words.get(uid)?.parse().ok()?)
            }
            _ => None,
        })
    }

    fn build(&self, place: &Path, done: &BTreeMap<&str, PathBuf>) -> Result<()> {
        let inside = |path: &str| place.join(path.trim_start_matches('/'));
        let mut here = place.to_owned();
        for step in &self.steps {
            match step {
                // Packages and users: see the module's text.
                Step::Run(line) if line.contains("apt-get ") => {}
                Step::Run(line) => {
                    println!("  {line}");
                    share_target(&here)?;
                    let words = line.split(' ').map(|word| match word.strip_prefix("/out") {
                        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                            format!("{}{rest}", inside("out").display())
                        }
                        _ => word.to_owned(),
                    });
                    let line = words.collect::<Vec<_>>().join(" ");
                    run(Command::new("sh").args(["-ec", &line]).current_dir(&here))?;
                }
                Step::Workdir(path) => {
                    here = inside(path);
                    std::fs::create_dir_all(&here)?;
                }
                Step::Copy {
                    from: None, what, ..
                } => {
                    ensure!(
                        what == ".",
                        "COPY {what}: only the whole repository is known"
                    );
                    copy_repository(&here)?;
                }
                Step::Copy {
                    from: Some(from),
                    what,
                    to,
                } => {
                    let other = done
                        .get(from.as_str())
                        .context("COPY from an unknown stage")?;
                    let what = other.join(what.trim_start_matches('/')).join(".");
                    let to = inside(to);
                    std::fs::create_dir_all(&to)?;
                    run(Command::new("cp").arg("-r").arg(what).arg(to))?;
                }
                Step::User(_) | Step::Cmd(_) => {}
            }
        }
        Ok(())
    }
}

/// Everything that git would add, symbolic links as such; the Dockerfile's `COPY . .`.
fn copy_repository(to: &Path) -> Result<()> {
    const PACK: &str = r#"git ls-files -z --cached --others --exclude-standard |
        tar -c --null -T - -f - | tar -x -f - -C "$0""#;
    let mut command = Command::new("sh");
    run(command.args(["-ec", PACK]).arg(to).current_dir(root()))
}

/// The cache mount of the build: dependencies that have been compiled here are not compiled again.
fn share_target(source: &Path) -> Result<()> {
    let ours = std::env::current_exe()?;
    let target = ours
        .ancestors()
        .nth(2)
        .context("our own binary lies nowhere")?;
    let link = source.join("target");
    if source.join("Cargo.toml").exists() && !link.exists() {
        std::os::unix::fs::symlink(target, link)?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Dockerfile, Step};

    #[test]
    fn stages_steps_packages_and_the_user_are_read() {
        let text = "# a comment\nFROM a:1 AS build\nWORKDIR /src\nCOPY . .\n\
            RUN --mount=type=cache,target=/x \\\n    make && mkdir /out\n\
            FROM b:2\nRUN apt-get update \\\n  && apt-get install -y one two \\\n  && useradd --uid 7 me\n\
            COPY --from=build /out/ /bin/\nUSER me\nCMD [\"x\", \"--help\"]\n";
        let file = Dockerfile::parse(text).unwrap();
        let [build, image] = &file.stages[..] else {
            panic!("{file:?}")
        };
        assert_eq!(build.name.as_deref(), Some("build"));
        assert_eq!(build.steps[2], Step::Run("make && mkdir /out".into()));
        assert_eq!(
            (image.packages(), image.uid()),
            (vec!["one", "two"], Some(7))
        );
        assert_eq!(image.steps[3], Step::Cmd(vec!["x".into(), "--help".into()]));
    }

    #[test]
    fn an_image_without_a_user_runs_as_root() {
        let file = Dockerfile::parse("FROM a:1\nRUN useradd --uid 7 me\n").unwrap();
        assert_eq!(file.last().unwrap().uid(), None);
    }
}
