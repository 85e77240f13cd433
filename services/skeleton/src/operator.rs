//! Who may use operator routes: those that change what no customer may change.
//!
//! With a token, whoever sends it. Without one, clients on this machine only: enough to try the
//! shop out, and nothing is open once the service listens to a network.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use clap::Args;
use onceward::Backend;
use onceward::secret::read_secret;
use onceward_http::Problem;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::App;

/// Shorter ones can be guessed.
const MIN_TOKEN_CHARS: usize = 16;

/// The token of operators. Only its hash is kept, so that nothing can print it.
#[derive(Clone, PartialEq, Eq)]
pub struct OperatorToken {
    hash: [u8; 32],
    fault: Option<&'static str>,
}

impl OperatorToken {
    fn of(text: &str) -> Self {
        let fault = if text.len() < MIN_TOKEN_CHARS {
            Some("must have at least 16 characters")
        } else if !text.bytes().all(|b| b.is_ascii_graphic()) {
            Some("must be visible ASCII characters without blanks")
        } else {
            None
        };
        Self {
            hash: Sha256::digest(text).into(),
            fault,
        }
    }

    /// Takes as long for any wrong token as for the right one.
    fn is(&self, text: &str) -> bool {
        let other: [u8; 32] = Sha256::digest(text).into();
        self.hash.ct_eq(&other).into()
    }
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Never fails, because the command line would quote what it refuses; see
/// [`OperatorOptions::access`].
impl FromStr for OperatorToken {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::of(text))
    }
}

/// How operators show who they are.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Operators")]
pub struct OperatorOptions {
    /// Token that operator routes ask for, as "Authorization: Bearer TOKEN"; 16 characters or more.
    /// Better in a file: command lines and environments can be seen by others.
    #[arg(
        long,
        env = "ONCEWARD_OPERATOR_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub operator_token: Option<OperatorToken>,
    /// File with that token. Without a token, operator routes answer clients on this machine only.
    #[arg(
        long,
        env = "ONCEWARD_OPERATOR_TOKEN_FILE",
        conflicts_with = "operator_token",
        value_name = "FILE"
    )]
    pub operator_token_file: Option<PathBuf>,
}

impl OperatorOptions {
    /// Reads the file, if one is named.
    ///
    /// # Errors
    /// A file that can't be read, or a token that is too weak to be one.
    pub fn access(&self) -> anyhow::Result<OperatorAccess> {
        let token = match (&self.operator_token, &self.operator_token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(file)) => {
                let text = read_secret(file).context("operator token file")?;
                OperatorToken::of(&text)
            }
            (None, None) => return Ok(OperatorAccess::ThisMachine),
        };
        match token.fault {
            Some(fault) => anyhow::bail!("the operator token {fault}"),
            None => Ok(OperatorAccess::Token(token)),
        }
    }
}

/// Who may use operator routes.
#[derive(Debug, Clone, Default)]
pub enum OperatorAccess {
    /// Clients on this machine that are no browser led here by another site, and no proxy.
    #[default]
    ThisMachine,
    /// Whoever sends the token.
    Token(OperatorToken),
}

/// Why somebody is no operator.
#[derive(Debug)]
pub enum NoOperator {
    /// 401: a token is needed, and this is none or the wrong one.
    Token {
        /// Whether one was sent.
        sent: bool,
    },
    /// 403: no token is set, and the client is elsewhere.
    Elsewhere,
}

impl OperatorAccess {
    fn check(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Result<(), NoOperator> {
        match self {
            Self::Token(token) => match bearer(headers) {
                Some(sent) if token.is(sent) => Ok(()),
                sent => Err(NoOperator::Token {
                    sent: sent.is_some(),
                }),
            },
            Self::ThisMachine if is_from_here(peer, headers) => Ok(()),
            Self::ThisMachine => Err(NoOperator::Elsewhere),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = text(headers, header::AUTHORIZATION)?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the client runs on this machine and speaks for itself.
fn is_from_here(peer: Option<SocketAddr>, headers: &HeaderMap) -> bool {
    let local = peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    // A proxy on this machine speaks for somebody elsewhere.
    let proxied = ["forwarded", "via", "x-forwarded-for", "x-real-ip"]
        .iter()
        .any(|name| headers.contains_key(*name));
    // A page of another site can make this machine's browser send requests, and name itself as the
    // host (DNS rebinding).
    let host = text(headers, header::HOST);
    let host_is_local = host.is_none_or(|host| {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let address = name.trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost")
            || address
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    });
    let origin_is_ours = match headers.get(header::ORIGIN).map(HeaderValue::to_str) {
        None => true,
        Some(Ok(origin)) => origin
            .strip_prefix("http://")
            .is_some_and(|o| Some(o) == host),
        Some(Err(_)) => false,
    };
    local && !proxied && host_is_local && origin_is_ours
}

/// Proof that the client may act as an operator: a handler that takes it is an operator route.
#[derive(Debug, Clone, Copy)]
pub struct Operator(());

impl<B: Backend> FromRequestParts<App<B>> for Operator {
    type Rejection = NoOperator;

    async fn from_request_parts(parts: &mut Parts, app: &App<B>) -> Result<Self, NoOperator> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        app.operators()
            .check(peer.map(|peer| peer.0), &parts.headers)?;
        Ok(Self(()))
    }
}

impl IntoResponse for NoOperator {
    fn into_response(self) -> Response {
        match self {
            Self::Token { sent } => {
                let (detail, challenge) = if sent {
                    (
                        "this is not the operator token",
                        r#"Bearer realm="operator", error="invalid_token""#,
                    )
                } else {
                    (
                        "only operators may do this: send Authorization: Bearer TOKEN",
                        r#"Bearer realm="operator""#,
                    )
                };
                let mut answer = Problem::new(StatusCode::UNAUTHORIZED, detail).into_response();
                answer.headers_mut().insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static(challenge),
                );
                answer
            }
            Self::Elsewhere => Problem::new(
                StatusCode::FORBIDDEN,
                "only operators on the service's own machine may do this, because it has no \
                 operator token: start it with --operator-token-file FILE, then send \
                 Authorization: Bearer TOKEN",
            )
            .into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn without_a_token_only_clients_of_this_machine_that_speak_for_themselves_are_operators() {
        let allowed = |peer: &str, pairs: &[(&'static str, &str)]| {
            let peer = Some(peer.parse().unwrap());
            OperatorAccess::ThisMachine
                .check(peer, &headers(pairs))
                .is_ok()
        };
        let here = "127.0.0.1:5000";
        assert!(allowed(here, &[]));
        assert!(allowed("[::1]:5000", &[("host", "[::1]:8002")]));
        assert!(allowed(
            "[::ffff:127.0.0.1]:5000",
            &[("host", "localhost:8002")]
        ));
        let page = [
            ("host", "127.0.0.1:8002"),
            ("origin", "http://127.0.0.1:8002"),
        ];
        assert!(allowed(here, &page));
        assert!(!allowed("192.168.1.7:5000", &[("host", "localhost:8002")]));
        assert!(!allowed(here, &[("x-forwarded-for", "192.168.1.7")]));
        assert!(!allowed(
            here,
            &[("host", "127.0.0.1"), ("origin", "http://evil.example")]
        ));
        assert!(!allowed(here, &[("host", "127.0.0.1"), ("origin", "null")]));
        let rebound = [("host", "evil.example"), ("origin", "http://evil.example")];
        assert!(!allowed(here, &rebound));
        assert!(
            OperatorAccess::ThisMachine
                .check(None, &headers(&[]))
                .is_err()
        );
    }

    #[test]
    fn a_token_is_what_counts_where_there_is_one() {
        let token = "0123456789abcdef";
        let access = OperatorOptions {
            operator_token: Some(OperatorToken::of(token)),
            operator_token_file: None,
        }
        .access()
        .unwrap();
        let check = |value: &str| access.check(None, &headers(&[("authorization", value)]));
        assert!(check(&format!("Bearer {token}")).is_ok());
        assert!(check(&format!("bearer {token}")).is_ok());
        for wrong in [
            "Bearer ",
            "Bearer 0123456789abcde",
            "Basic 0123456789abcdef",
            token,
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
        let here = Some("127.0.0.1:1".parse().unwrap());
        assert!(access.check(here, &HeaderMap::new()).is_err());
        assert!(!format!("{access:?}").contains(token));
    }

    #[test]
    fn a_token_that_is_none_is_refused_without_being_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        for (text, fault) in [
            ("", "is empty"),
            ("hush-hush", "16 characters"),
            ("hush hush hush hush", "visible"),
        ] {
            std::fs::write(&file, format!("{text}\n")).unwrap();
            let options = OperatorOptions {
                operator_token: None,
                operator_token_file: Some(file.clone()),
            };
            let told = format!("{:#}", options.access().unwrap_err());
            assert!(told.contains(fault) && !told.contains("hush"), "{told}");
        }
        let missing = OperatorOptions {
            operator_token: None,
            operator_token_file: Some(folder.path().join("none")),
        };
        assert!(format!("{:#}", missing.access().unwrap_err()).contains("none"));
    }
}
