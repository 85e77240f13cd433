//! `onceward source list`.

use anyhow::Result;
use serde::Serialize;
use uuid::Uuid;

use crate::database::{self, on};
use crate::locate::Place;
use crate::outcome::Outcome;
use crate::render::{or_dash, table};

#[derive(Debug, Serialize)]
struct Listed {
    source: String,
    url: String,
    source_id: Option<Uuid>,
    epoch: Option<i64>,
    /// Name stored in the database, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

/// `source list`: every database named, readable or not.
pub(crate) async fn list(place: &Place) -> Result<Outcome> {
    const SQL: &str = "select name, source_id, epoch from outbox_source where id = 1";
    let mut found = vec![];
    for source in &place.sources {
        let mut listed = Listed {
            source: source.name.clone(),
            url: source.url.to_string(),
            source_id: None,
            epoch: None,
            stored_name: None,
            unreadable: None,
        };
        match database::open_for_reading(&source.url).await {
            Ok(mut connection) => {
                let row: Option<(String, Uuid, i64)> =
                    on!(&mut connection, c => sqlx::query_as(SQL).fetch_optional(&mut *c).await)?;
                if let Some((name, id, epoch)) = row {
                    listed.source_id = Some(id);
                    listed.epoch = Some(epoch);
                    listed.stored_name = Some(name).filter(|n| *n != source.name);
                }
            }
            Err(why) => listed.unreadable = Some(format!("{why:#}")),
        }
        found.push(listed);
    }
    let lines = found.iter().map(|s| {
        let state = match (&s.unreadable, &s.stored_name) {
            (Some(why), _) => why.clone(),
            (None, Some(name)) => format!("is source {name}"),
            (None, None) => "ok".to_owned(),
        };
        let (id, epoch) = (or_dash(s.source_id), or_dash(s.epoch));
        vec![s.source.clone(), id, epoch, state, s.url.clone()]
    });
    let headings = ["SOURCE", "OUTBOX ID", "EPOCH", "STATE", "DATABASE"];
    let text = table(&headings, lines.collect());
    Outcome::new(text, &found)
}
