//! Access rules of a Kafka with an authorizer: read from `kafka-acls` lines, added and removed.
//!
//! By Kafka's protocol instead of its tool, whose JVM takes seconds for each call.

use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::Result;

/// One rule: this principal may do that with what is named so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acl {
    /// `User:relay`
    pub principal: String,
    /// What the name names.
    pub resource: Resource,
    /// The resource's name, or how it begins.
    pub name: String,
    /// The name is a beginning.
    pub prefixed: bool,
    /// Kafka's name of the operation: `READ`, `DESCRIBE_CONFIGS` …
    pub operation: String,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
    /// A producer's transactional id.
    TransactionalId,
}

impl fmt::Display for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resource = match self.resource {
            Resource::Topic => "topic",
            Resource::Group => "group",
            Resource::TransactionalId => "transactional id",
        };
        let star = if self.prefixed { "*" } else { "" };
        write!(
            f,
            "{}: {} on {resource} {}{star}",
            self.principal, self.operation, self.name
        )
    }
}

/// Kafka's numbers of the operations we need.
const OPERATIONS: &[(&str, u8)] = &[
    ("ALL", 2),
    ("READ", 3),
    ("WRITE", 4),
    ("CREATE", 5),
    ("DELETE", 6),
    ("ALTER", 7),
    ("DESCRIBE", 8),
    ("DESCRIBE_CONFIGS", 10),
    ("ALTER_CONFIGS", 11),
];

/// By whichever of its spellings: `DescribeConfigs`, `DESCRIBE_CONFIGS`.
fn operation(text: &str) -> Result<String> {
    let plain = |text: &str| text.replace('_', "").to_uppercase();
    let found = OPERATIONS
        .iter()
        .find(|(name, _)| plain(name) == plain(text));
    let (name, _) = found.with_context(|| format!("{text} is no operation known here"))?;
    Ok((*name).to_owned())
}

impl Acl {
    /// The rules that a `kafka-acls … --add …` line adds: each operation on each resource.
    pub fn of_command(line: &str) -> Result<Vec<Self>> {
        let mut words = line.split_whitespace();
        let (mut principals, mut operations, mut resources) = (vec![], vec![], vec![]);
        let mut prefixed = false;
        let mut adds = false;
        while let Some(word) = words.next() {
            let mut value = || {
                let value = words.next().map(|value| value.trim_matches('\''));
                value
                    .map(str::to_owned)
                    .with_context(|| format!("{word} has no value in {line:?}"))
            };
            match word {
                "--add" => adds = true,
                "--allow-principal" => principals.push(value()?),
                "--operation" => operations.push(operation(&value()?)?),
                "--topic" => resources.push((Resource::Topic, value()?)),
                "--group" => resources.push((Resource::Group, value()?)),
                "--transactional-id" => resources.push((Resource::TransactionalId, value()?)),
                "--resource-pattern-type" => prefixed = value()? == "prefixed",
                "--bootstrap-server" | "--command-config" => drop(value()?),
                other if other.starts_with("--") => bail!("{other} is not understood in {line:?}"),
                _ => {}
            }
        }
        if !adds || principals.is_empty() || operations.is_empty() || resources.is_empty() {
            bail!("{line:?} adds no rule");
        }
        let mut rules = Vec::new();
        for principal in &principals {
            for (resource, name) in &resources {
                for operation in &operations {
                    rules.push(Self {
                        principal: principal.clone(),
                        resource: *resource,
                        name: name.clone(),
                        prefixed,
                        operation: operation.clone(),
                    });
                }
            }
        }
        Ok(rules)
    }

    /// Adds the rule; `bootstrap` is a plain listener on which we are a super user.
    pub fn add(&self, bootstrap: &str) -> Result<()> {
        const CREATE_ACLS: i16 = 30;
        let answer = ask(bootstrap, CREATE_ACLS, &self.encoded()?)?;
        expect_no_error(&answer).with_context(|| format!("adding {self}"))
    }

    /// Removes the rule.
    pub fn remove(&self, bootstrap: &str) -> Result<()> {
        const DELETE_ACLS: i16 = 31;
        let answer = ask(bootstrap, DELETE_ACLS, &self.encoded()?)?;
        expect_no_error(&answer).with_context(|| format!("removing {self}"))
    }

    /// A list of this one rule; as a filter it has the same form.
    fn encoded(&self) -> Result<Vec<u8>> {
        let operation = OPERATIONS
            .iter()
            .find(|(name, _)| *name == self.operation)
            .with_context(|| format!("{} is no operation known here", self.operation))?;
        let mut body = 1_i32.to_be_bytes().to_vec();
        body.push(match self.resource {
            Resource::Topic => 2,
            Resource::Group => 3,
            Resource::TransactionalId => 5,
        });
        text(&mut body, &self.name)?;
        body.push(if self.prefixed { 4 } else { 3 });
        text(&mut body, &self.principal)?;
        text(&mut body, "*")?; // from any host
        body.push(operation.1);
        body.push(3); // allow
        Ok(body)
    }
}

fn text(body: &mut Vec<u8>, text: &str) -> Result<()> {
    body.extend(i16::try_from(text.len())?.to_be_bytes());
    body.extend(text.as_bytes());
    Ok(())
}

/// Version 1 of a request: the last without tagged fields.
fn ask(bootstrap: &str, api: i16, body: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(bootstrap)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut request = api.to_be_bytes().to_vec();
    request.extend(1_i16.to_be_bytes());
    request.extend(1_i32.to_be_bytes()); // correlation id
    request.extend((-1_i16).to_be_bytes()); // no client id
    request.extend(body);
    stream.write_all(&u32::try_from(request.len())?.to_be_bytes())?;
    stream.write_all(&request)?;
    let mut length = [0_u8; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Both answers: correlation id, throttle time, one result that begins with its error code.
fn expect_no_error(answer: &[u8]) -> Result<()> {
    let code = answer.get(12..14).context("the answer is too short")?;
    match i16::from_be_bytes([code[0], code[1]]) {
        0 => Ok(()),
        code => bail!(
            "Kafka's error {code}: {}",
            String::from_utf8_lossy(answer.get(16..).unwrap_or_default())
        ),
    }
}
