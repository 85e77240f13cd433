//! A service's state, made again from the topics.

use integration_tests::{Database, Result, World};
use serde_json::{Value, json};

/// What each service is told besides; the live ones are told the same.
const SERVICES: [(&str, &[&str]); 7] = [
    ("inventory", &[]),
    ("payment", &["--", "--fail-percent", "0"]),
    ("delivery", &["--", "--fail-percent", "0"]),
    ("customer", &[]),
    ("shipping", &[]),
    ("analytics", &[]),
    ("notification", &[]),
];

const LOSE_ONE: &str = "update product set stock = stock - 1, supplied = supplied - 1 \
                        where product_id = 'product_5'";
const FIND_IT: &str = "update product set stock = stock + 1, supplied = supplied + 1 \
                       where product_id = 'product_5'";

/// Every service whose state came by messages alone is rebuilt equal; a row that somebody changed
/// by hand is shown.
pub(crate) async fn equals_the_live_one_until_somebody_tampers(
    world: &World,
    database: Database,
) -> Result<()> {
    // Each takes seconds, and the reading is the same for all: two of them on Postgres.
    let services = match database {
        Database::Sqlite => &SERVICES[..],
        Database::Postgres => &SERVICES[..2],
    };
    for (service, more) in services {
        let (code, out, err) = rebuild(world, service, "equal", more)?;
        assert_eq!(code, 0, "{service}:\n{out}{err}");
        assert!(
            out.trim_end().ends_with("equal") && err.is_empty(),
            "{out}{err}"
        );
    }
    world.execute("inventory", LOSE_ONE).await?;
    let (code, out, err) = rebuild(world, "inventory", "tampered", &["--json"])?;
    world.execute("inventory", FIND_IT).await?;
    assert_eq!(code, 1, "{out}{err}");
    let said: Value = serde_json::from_str(&out)?;
    let told = &said["tables"][0];
    assert_eq!(
        (&told["table"], &told["differing_count"], &told["differing"]),
        (
            &json!("product"),
            &json!(1),
            &json!([{
                "key": {"product_id": "product_5"},
                "columns": {"stock": ["999", "1000"], "supplied": ["999", "1000"]},
            }])
        ),
        "{said:#}"
    );
    // The file of before is no new one.
    let (code, _, err) = rebuild(world, "inventory", "tampered", &[])?;
    assert!(
        code == 64 && err.contains("exists already"),
        "{code}: {err}"
    );
    Ok(())
}

fn rebuild(
    world: &World,
    service: &str,
    name: &str,
    more: &[&str],
) -> Result<(i32, String, String)> {
    let consumer = format!("{service}-service-group");
    let shadow = world.folder().join(format!("{name}-{service}.shadow"));
    let shadow = shadow.to_string_lossy();
    let words = [
        "consumer",
        "rebuild",
        "--consumer",
        &consumer,
        "--into",
        &shadow,
    ];
    world.onceward(&[&words[..], more].concat())
}
