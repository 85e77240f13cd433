//! Shows the mails.

use std::fmt::Write;

use axum::extract::State;
use axum::response::Html;
use axum::routing::get;
use axum::{Json, Router};

use crate::{Mail, Mails};

pub(crate) fn router(mails: Mails) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/messages", get(messages))
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(async || "ok"))
        .with_state(mails)
}

async fn messages(State(mails): State<Mails>) -> Json<Vec<Mail>> {
    Json(mails.all())
}

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
<meta name=viewport content='width=device-width'><meta http-equiv=refresh content=2>\
<title>Mails</title><style>\
body{font:15px system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}\
article{border:1px solid #ddd;border-radius:6px;padding:.7rem 1rem;margin:.7rem 0}\
h1{font-size:1.3rem}h2{font-size:1rem;margin:0}small{color:#666}\
pre{white-space:pre-wrap;margin:.5rem 0 0}</style>";

async fn page(State(mails): State<Mails>) -> Html<String> {
    let mails = mails.all();
    let mut page = format!(
        "{HEAD}<h1>{} mails, newest first; none is delivered</h1>",
        mails.len()
    );
    for mail in &mails {
        // Writing into a text never fails.
        let _written = write!(
            page,
            "<article><h2>{}</h2><small>{} · to {} · {}</small><pre>{}</pre></article>",
            escaped(mail.subject.as_deref().unwrap_or("(no subject)")),
            mail.number,
            escaped(&mail.to.join(", ")),
            escaped(mail.message_id.as_deref().unwrap_or("(no Message-ID)")),
            escaped(mail.text.as_deref().unwrap_or_default()),
        );
    }
    Html(page)
}

/// As text in a page, whatever a mail says.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn a_mail_can_put_nothing_into_the_page() {
        assert_eq!(escaped("<b>&"), "&lt;b&gt;&amp;");
    }
}
