//! Wishes about dead letters are written once, and can be followed.

use crate::fixture::{Shop, id};

fn asks(shop: &Shop) {
    let letter = "inventory.reserve/1@6";
    let asked = shop.onceward(&[
        "dead-letter",
        "replay",
        letter,
        "--by",
        "ada",
        "--note",
        "fixed",
    ]);
    assert_eq!(asked.exit.code(), 0, "{}", asked.err);
    assert!(asked.out.starts_with("request 2: replay "), "{}", asked.out);
    let again = shop.onceward(&["dead-letter", "replay", letter, "--by", "ada"]);
    assert!(
        again.out.starts_with("already asked: request 2"),
        "{}",
        again.out
    );
    let open = shop.onceward(&["dead-letter", "requests", "--open", "--json"]);
    let open: serde_json::Value = serde_json::from_str(&open.out).unwrap();
    assert_eq!(open.as_array().unwrap().len(), 1);
    assert_eq!(open[0]["requested_by"], "ada");
    assert_eq!(open[0]["note"], "fixed");
}

fn asks_for_a_parked_key(shop: &Shop) {
    let letter = id(3);
    let asked = shop.onceward(&["dead-letter", "discard", &letter, "--yes-break-order"]);
    assert_eq!(asked.exit.code(), 0, "{}", asked.err);
    assert!(
        asked.out.contains("the whole parked key order-3"),
        "{}",
        asked.out
    );
    let wanted = "select 1 / count(*) from outbox_dead_letter_request where kind = 'discard' \
         and topic = 'order.created' and message_key = 'order-3' and message_id is null";
    shop.execute("order", wanted);
}

fn waits(shop: &Shop) {
    let letter = "inventory.reserve/1@6";
    let words = ["dead-letter", "replay", letter, "--wait", "--timeout", "1"];
    let nobody = shop.onceward(&words);
    assert_eq!(nobody.exit.code(), 3, "{}", nobody.out);
    assert!(
        nobody.err.contains("not carried out within 1 s"),
        "{}",
        nobody.err
    );
    shop.execute(
        "inventory",
        "update inbox_dead_letter_request set state = 'refused'",
    );
    let fresh = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            shop.onceward(&["dead-letter", "replay", letter, "--wait", "--timeout", "30"])
        });
        // Plays the consumer's part once the wish is there.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !shop
            .onceward(&["dead-letter", "requests", "--open"])
            .out
            .contains("requested")
        {
            assert!(std::time::Instant::now() < deadline, "the wish never came");
        }
        shop.execute(
            "inventory",
            "update inbox_dead_letter_request set state = 'done'",
        );
        asked.join().unwrap()
    });
    assert_eq!(fresh.exit.code(), 0, "{}", fresh.err);
    assert!(fresh.out.contains(", done"), "{}", fresh.out);
}

#[test]
fn a_wish_is_written_once_and_can_be_followed() {
    for shop in [Shop::on_sqlite(), Shop::on_postgres()] {
        let shop = shop.with_story();
        asks(&shop);
        asks_for_a_parked_key(&shop);
    }
}

#[test]
fn waiting_ends_when_the_owner_is_done_or_the_time_is_up() {
    for shop in [Shop::on_sqlite(), Shop::on_postgres()] {
        waits(&shop.with_story());
    }
}
