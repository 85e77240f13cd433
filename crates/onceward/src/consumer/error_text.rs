//! Errors as text: whole for the database, without what the payload says for the log.

use super::HandlerError;
use super::entry::Entry;
use crate::{MessageContext, error_chain};

/// A failed attempt as log lines tell it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Logged {
    pub message_id: String,
    pub message_type: String,
    pub correlation_id: String,
    pub error: String,
}

impl Logged {
    pub(super) fn new(entry: &Entry, error: &HandlerError) -> Self {
        let envelope = &entry.envelope;
        Self {
            message_id: clean(envelope.ce_id.as_deref().unwrap_or_default(), 100),
            message_type: clean(envelope.message_type.as_deref().unwrap_or_default(), 100),
            correlation_id: MessageContext::caused_by(envelope)
                .correlation_id
                .to_string(),
            error: logged(error),
        }
    }
}

/// [`chain`] for the log. JSON errors quote the value that did not fit, which is somebody's payload:
/// only their place is told; the whole text stands in the dead letter.
pub(super) fn logged(error: &HandlerError) -> String {
    let first = match error {
        HandlerError::Retry { cause, .. } | HandlerError::Reject(cause) => {
            &**cause as &(dyn std::error::Error + 'static)
        }
        HandlerError::Database(cause) => cause,
    };
    let mut parts = Vec::new();
    let mut next = Some(first);
    while let Some(error) = next {
        parts.push(match error.downcast_ref::<serde_json::Error>() {
            Some(json) => format!(
                "{:?} error at line {} column {}",
                json.classify(),
                json.line(),
                json.column()
            ),
            None => error.to_string(),
        });
        next = error.source();
    }
    clean(&parts.join(": "), 4_000)
}

/// The error with its sources in one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    clean(&error_chain(error), 4_000)
}

/// Text that both databases can store: no NUL, at most `limit` bytes.
pub(super) fn clean(text: &str, limit: usize) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    if text.len() > limit {
        let mut end = limit;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{chain, logged};
    use crate::consumer::HandlerError;

    #[test]
    fn a_log_line_does_not_quote_the_payload_that_did_not_fit() {
        let source = serde_json::from_str::<u32>("\"4111-1111\"").unwrap_err();
        let error = crate::DecodeError::Payload {
            message_type: "payment.process.v1",
            source,
        };
        assert!(chain(&error).contains("4111"), "{}", chain(&error));
        let told = logged(&HandlerError::from(error));
        let expected = "payload is not a valid payment.process.v1: Data error at line 1 column 11";
        assert_eq!(told, expected);
    }
}
