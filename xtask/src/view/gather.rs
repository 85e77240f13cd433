//! Asking every process how it is.

use std::time::Duration;

use futures::future::join_all;
use reqwest::{Client, StatusCode};
use serde_json::Value;

use super::scrape::Scrape;
use super::shop::{Health, Look, RelayStatus};
use crate::Result;
use crate::layout::RELAY;
use crate::manifest::{Process, State};
use crate::probe::Ready;
use crate::supervisor::Handle;

/// Longest wait for an answer.
const AT_MOST: Duration = Duration::from_secs(2);

/// What one process has answered.
enum Answer {
    Nothing,
    Relay(RelayStatus),
    Service(Scrape),
}

/// Asks all processes at once.
pub(super) struct Gatherer {
    client: Client,
    handle: Handle,
}

impl Gatherer {
    pub(super) fn new(handle: Handle) -> Result<Self> {
        // All of them are on this machine: no proxy of the environment is meant for them.
        let client = Client::builder().timeout(AT_MOST).no_proxy().build()?;
        Ok(Self { client, handle })
    }

    pub(super) async fn look(&self, at: Duration) -> Look {
        let watched = self.handle.watch().await;
        let asked = watched.into_iter().map(async |(process, ready)| {
            let (health, answer) = self.ask(&process, &ready).await;
            (process, health, answer)
        });
        let mut look = Look {
            at,
            ..Look::default()
        };
        for (process, health, answer) in join_all(asked).await {
            match answer {
                Answer::Nothing => {}
                Answer::Relay(status) => look.relay = Some(status),
                Answer::Service(scrape) => {
                    look.services.insert(process.name.clone(), scrape);
                }
            }
            look.processes.push((process, health));
        }
        look
    }

    async fn ask(&self, process: &Process, ready: &Ready) -> (Health, Answer) {
        if process.state != State::Running {
            return (Health::NotAsked, Answer::Nothing);
        }
        let Some(url) = &process.url else {
            let health = match ready.check().await {
                true => Health::Ready,
                false => Health::Silent,
            };
            return (health, Answer::Nothing);
        };
        let health = self.health(url);
        let answer = async {
            if process.name == RELAY {
                let status = self.text(&format!("{url}/status")).await.ok()?;
                serde_json::from_str(&status.1).ok().map(Answer::Relay)
            } else {
                let (_, text) = self.text(&format!("{url}/metrics")).await.ok()?;
                Some(Answer::Service(Scrape::parse(&text)))
            }
        };
        let (health, answer) = tokio::join!(health, answer);
        (health, answer.unwrap_or(Answer::Nothing))
    }

    async fn health(&self, url: &str) -> Health {
        match self.text(&format!("{url}/readyz")).await {
            Ok((StatusCode::OK, _)) => Health::Ready,
            Ok((status, text)) => Health::NotReady(why_not(status, &text)),
            Err(_) => Health::Silent,
        }
    }

    async fn text(&self, url: &str) -> reqwest::Result<(StatusCode, String)> {
        let response = self.client.get(url).send().await?;
        Ok((response.status(), response.text().await?))
    }
}

/// One line of what `/readyz` has answered: `{"database":"…"}` of a service, or the relay's list of
/// sources that do not work.
fn why_not(status: StatusCode, text: &str) -> String {
    let Ok(Value::Object(parts)) = serde_json::from_str(text) else {
        return status.to_string();
    };
    if let Some(Value::String(problem)) = parts.get("detail").or(parts.get("title")) {
        return problem.clone();
    }
    let Some(Value::Array(sources)) = parts.get("not_ready") else {
        let parts = parts
            .iter()
            .map(|(part, why)| format!("{part}: {}", word(why)));
        return parts.collect::<Vec<_>>().join(", ");
    };
    // Mostly one cause holds all of them: it is told once.
    let mut causes: Vec<(String, Vec<&str>)> = Vec::new();
    for source in sources {
        let cause = match &source["error"] {
            Value::String(error) => error.clone(),
            _ => word(&source["state"]).to_owned(),
        };
        let name = word(&source["source"]);
        match causes.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, names)) => names.push(name),
            None => causes.push((cause, vec![name])),
        }
    }
    let causes = causes
        .iter()
        .map(|(cause, names)| format!("{}: {cause}", names.join(", ")));
    causes.collect::<Vec<_>>().join("; ")
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::why_not;

    #[test]
    fn the_reason_is_one_line() {
        let why = |text| why_not(StatusCode::SERVICE_UNAVAILABLE, text);
        assert_eq!(why("oops"), "503 Service Unavailable");
        let problem = r#"{"type":"about:blank","title":"Service Unavailable","status":503}"#;
        assert_eq!(why(problem), "Service Unavailable");
        assert_eq!(
            why(r#"{"database":"does not answer"}"#),
            "database: does not answer"
        );
        let relay = r#"{"ready":false,"not_ready":[
            {"source":"order","state":"hold","error":"no broker answers","way_out":null},
            {"source":"payment","state":"open","error":null,"way_out":null},
            {"source":"delivery","state":"hold","error":"no broker answers","way_out":null}]}"#;
        assert_eq!(
            why(relay),
            "order, delivery: no broker answers; payment: open"
        );
    }
}
