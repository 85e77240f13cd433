//! What a connection's trouble means, in words that name the setting to look at. librdkafka's own
//! words name its properties, and of a refused certificate they don't tell why it was refused.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use openssl::ssl::{HandshakeError, SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::X509VerifyResult;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;

/// How long the question why a certificate is refused may take.
const LOOK_AT_MOST: Duration = Duration::from_secs(2);

/// Why a connection does not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Kafka refuses us, or we refuse Kafka: only a person can mend it.
    Refused(String),
    /// A broker that is going down looks the same: it may pass.
    Perhaps(String),
}

/// What an error event or a log line of librdkafka tells, if it tells a cause. May connect to the
/// broker, for 2 s at most: not for every line of a connection that fails again and again.
pub(crate) fn explain(
    config: &ClientConfig,
    code: Option<RDKafkaErrorCode>,
    text: &str,
) -> Option<Trouble> {
    use RDKafkaErrorCode as C;
    let place = place_of(text).unwrap_or("the broker");
    if text.contains("certificate verify failed") {
        let why = why_not_verified(place, config.get("ssl.ca.location"));
        return Some(Trouble::Refused(why));
    }
    if text.contains("SSL alert number") {
        let ours = match config.get("ssl.certificate.location") {
            Some(file) => format!("{file} is not one, or has expired"),
            None => "none is set".to_owned(),
        };
        return Some(Trouble::Refused(format!(
            "Kafka at {place} wants a client certificate (cert_file, --kafka-cert-file) of an \
             authority it knows: {ours}"
        )));
    }
    if let Some((_, offered)) = text.split_once("supported mechanisms: ") {
        return Some(Trouble::Refused(format!(
            "Kafka at {place} does not take sasl_mechanism {} (--kafka-sasl-mechanism) but {}",
            config.get("sasl.mechanism").unwrap_or_default(),
            without_state(offered)
        )));
    }
    if matches!(code, Some(C::Authentication | C::SaslAuthenticationFailed)) {
        return Some(Trouble::Refused(format!(
            "Kafka at {place} refused the user name or password of {:?} (--kafka-username, \
             --kafka-password-file), or does not know the user for {}",
            config.get("sasl.username").unwrap_or_default(),
            config.get("sasl.mechanism").unwrap_or("this mechanism")
        )));
    }
    // What librdkafka makes of it depends on what it sees first: junk, or the closed connection.
    let no_tls_there = text.contains("connecting to a PLAINTEXT broker listener?")
        || (text.contains("closed by peer") && text.contains("in state SSL_HANDSHAKE"));
    if no_tls_there {
        return Some(Trouble::Perhaps(format!(
            "Kafka at {place} ends the TLS handshake; if that is a listener without TLS, \
             security_protocol (--kafka-security-protocol) must be plaintext or sasl_plaintext"
        )));
    }
    // To a listener with TLS the first question is no TLS record: it closes, or answers an alert.
    let closed_at_once = text.contains("connecting to a SSL listener?")
        || text.contains("Invalid response size")
        || text.contains("in state APIVERSION_QUERY");
    if closed_at_once {
        return Some(Trouble::Perhaps(format!(
            "Kafka at {place} closes the connection at the first question; if that is a listener \
             with TLS, security_protocol (--kafka-security-protocol) must be ssl or sasl_ssl"
        )));
    }
    matches!(code, Some(C::SSL)).then(|| {
        let text = without_state(text);
        Trouble::Refused(format!("TLS handshake failed: {text}"))
    })
}

/// `host:port` of events that begin with `sasl_ssl://host:port/bootstrap: `, without TLS and SASL
/// with the host; log lines have the thread in front.
fn place_of(text: &str) -> Option<&str> {
    let text = match text.strip_prefix("[thrd:") {
        Some(line) => line.split_once("]: ")?.1,
        None => text,
    };
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let place = text.split('/').next()?;
    (place.contains(':') && !place.contains(' ')).then_some(place)
}

/// Without the ` (after 3ms in state UP)` that librdkafka adds.
fn without_state(text: &str) -> &str {
    text.split(" (after ").next().unwrap_or(text)
}

/// Asks the broker for its certificate once more, and OpenSSL what is wrong with it.
fn why_not_verified(place: &str, ca_file: Option<&str>) -> String {
    let (host, _) = place.rsplit_once(':').unwrap_or((place, ""));
    let authorities = match ca_file {
        Some(file) => format!("in {file} (ca_file, --kafka-ca-file)"),
        None => {
            "that this system knows; name a file of its own by ca_file (--kafka-ca-file)".to_owned()
        }
    };
    let subject = format!("the certificate of Kafka at {place}");
    let Some(found) = verify(place, host, ca_file) else {
        return format!("{subject} can't be verified by the authorities {authorities}");
    };
    // Numbers of OpenSSL's X509_V_ERR_…
    match found.as_raw() {
        9 => format!("{subject} is not valid yet: compare the clocks"),
        10 => format!("{subject} has expired: renew it on the broker"),
        18..=21 => format!("{subject} is signed by none of the authorities {authorities}"),
        62 | 64 => format!(
            "{subject} is not made out to {host}: reach the broker by a name that stands in it, or \
             issue it for this name too"
        ),
        _ => format!("{subject} is refused: {}", found.error_string()),
    }
}

fn verify(place: &str, host: &str, ca_file: Option<&str>) -> Option<X509VerifyResult> {
    let mut connector = SslConnector::builder(SslMethod::tls_client()).ok()?;
    match ca_file {
        Some(file) => connector.set_ca_file(file).ok()?,
        None => connector.set_default_verify_paths().ok()?,
    }
    connector.set_verify(SslVerifyMode::PEER);
    let stream = place
        .to_socket_addrs()
        .ok()?
        .find_map(|address| TcpStream::connect_timeout(&address, LOOK_AT_MOST).ok())?;
    stream.set_read_timeout(Some(LOOK_AT_MOST)).ok()?;
    match connector.build().connect(host, stream) {
        Err(HandshakeError::Failure(failed)) => Some(failed.ssl().verify_result()),
        _ => None,
    }
    .filter(|found| *found != X509VerifyResult::OK)
}

#[cfg(test)]
mod tests {
    use rdkafka::config::ClientConfig;
    use rdkafka::error::RDKafkaErrorCode;

    use super::{Trouble, explain, place_of};

    #[test]
    fn the_broker_is_found_in_events_and_log_lines() {
        for text in [
            "sasl_ssl://h:1/bootstrap: SSL handshake failed",
            "h:1/1: Disconnected",
            "[thrd:ssl://h:1/bootstrap]: ssl://h:1/bootstrap: Receive failed",
        ] {
            assert_eq!(place_of(text), Some("h:1"), "{text}");
        }
        assert_eq!(place_of("1/1 brokers are down"), None);
    }

    #[test]
    fn a_broker_that_goes_down_is_not_taken_for_a_refusal() {
        let config = ClientConfig::new();
        let code = Some(RDKafkaErrorCode::BrokerTransportFailure);
        for (text, expected) in [
            (
                "plaintext://h:1/1: Disconnected (after 9ms in state UP)",
                false,
            ),
            (
                "plaintext://h:1/1: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)",
                false,
            ),
            (
                "plaintext://h:1/bootstrap: Disconnected while requesting ApiVersion: might be caused by incorrect security.protocol configuration (connecting to a SSL listener?) (after 3ms in state APIVERSION_QUERY)",
                true,
            ),
            (
                "sasl_ssl://h:1/bootstrap: Disconnected: SSL connection closed by peer (after 0ms in state SSL_HANDSHAKE)",
                true,
            ),
        ] {
            let explained = explain(&config, code, text);
            assert_eq!(explained.is_some(), expected, "{text}");
            assert!(!matches!(explained, Some(Trouble::Refused(_))), "{text}");
        }
    }
}
