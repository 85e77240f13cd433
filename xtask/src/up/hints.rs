//! What a person can do with a shop that runs.

use std::fmt::Write as _;

/// Commands to try, complete with the ports and folders of this run.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// Kafka's address, if nothing else runs.
    pub kafka: Option<String>,
    /// Where orders are placed and listed.
    pub orders: String,
    /// The command `onceward` with its options, without its verb.
    pub onceward: String,
    /// The option that names the data folder, with a space before it; empty for the usual folder.
    pub data: String,
    /// How to stop.
    pub end: String,
}

impl Hints {
    /// `curl` places an order: its two lines, without indentation.
    pub fn curl(&self) -> [String; 2] {
        [
            format!(
                "curl -i {} -H 'content-type: application/json' \\",
                self.orders
            ),
            r#"-d '{"user_id":"user_123","product_id":"product_1","quantity":2,"amount":199.99}'"#
                .to_owned(),
        ]
    }

    /// Many orders at once.
    pub fn load(&self) -> String {
        format!("./dev load{} --rate 20 --seconds 30", self.data)
    }

    /// All of it, as plain lines.
    pub fn plain(&self) -> String {
        if let Some(kafka) = &self.kafka {
            return format!("\nKafka is at {kafka}. {}", self.end);
        }
        let [curl, body] = self.curl();
        let mut text = format!("\nTry it:\n  {curl}\n    {body}\n  curl {}\n", self.orders);
        // Writing into a string cannot fail.
        let _ = writeln!(text, "  {}\nLook inside:", self.load());
        for verb in ["status", "message trace ORDER_ID", "verify"] {
            let _ = writeln!(text, "  {} {verb}", self.onceward);
        }
        text.push_str(&self.end);
        text
    }
}
