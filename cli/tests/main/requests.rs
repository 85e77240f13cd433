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

fn asks_for_all_that_is_parked_in_a_topic(shop: &Shop) {
    let words = ["dead-letter", "replay", "--parked-in", "order.created"];
    for _ in 0..2 {
        let asked = shop.onceward(&words);
        assert_eq!(asked.exit.code(), 0, "{}", asked.err);
        let told = "replay of 1 keys and messages parked in order.created: 1 requested\n";
        assert_eq!(asked.out, told);
    }
    let wanted = "select 1 / (case when count(*) = 1 then 1 else 0 end) from \
         outbox_dead_letter_request where kind = 'replay' and message_key = 'order-3'";
    shop.execute("order", wanted);
    shop.execute(
        "order",
        "update outbox_dead_letter_request set state = 'refused'",
    );
    let waited = shop.onceward(&[&words[..], &["--wait", "--timeout", "1"]].concat());
    assert_eq!(waited.exit.code(), 3, "{}", waited.out);
    let nothing = shop.onceward(&["dead-letter", "replay", "--parked-in", "nowhere"]);
    assert_eq!(nothing.exit.code(), 2, "{}", nothing.out);
    assert!(nothing.err.contains("nothing is parked in topic nowhere"));
    let both = shop.onceward(&["dead-letter", "replay", "x", "--parked-in", "nowhere"]);
    assert_eq!(both.exit.code(), 64, "{}", both.out);
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

fn asks_for_a_saga(shop: &Shop) {
    let words = |words: &'static str| words.split(' ').collect::<Vec<_>>();
    let nobody = shop.onceward(&words("saga skip order-1 --by ada --why fixed --timeout 0"));
    assert_eq!(nobody.exit.code(), 0, "{}", nobody.err);
    assert!(nobody.out.ends_with(", requested\n"), "{}", nobody.out);
    let wanted = "select 1 / count(*) from saga_request where verb = 'skip' and step is null \
         and requested_by = 'ada' and why = 'fixed' and state = 'requested'";
    shop.execute("saga-orchestrator", wanted);
    // What the orchestrator makes of it is told.
    shop.execute(
        "saga-orchestrator",
        "update saga_request set state = 'refused', note = 'step a is done'",
    );
    for (words, code, told) in [
        (
            words("saga retry order-1 --why x --timeout 1"),
            3,
            "within 1 s",
        ),
        (words("saga retry nothing --why x"), 2, "no saga nothing"),
        (words("saga retry order-1"), 64, "--why"),
        (
            words("saga force-complete order-1 --why x --step a"),
            64,
            "--step",
        ),
    ] {
        let said = shop.onceward(&words);
        assert_eq!(
            said.exit.code(),
            code,
            "{words:?}: {}{}",
            said.out,
            said.err
        );
        assert!(said.err.contains(told), "{words:?}: {}", said.err);
    }
    let blank = shop.onceward(&["saga", "retry", "order-1", "--why", " "]);
    assert_eq!(blank.exit.code(), 64, "{}", blank.err);
    shop.execute(
        "saga-orchestrator",
        "update saga_instance set status = 'completed'",
    );
    let late = shop.onceward(&words("saga retry order-1 --why x"));
    assert_eq!(late.exit.code(), 1, "{}", late.out);
    assert!(late.err.contains("has ended"), "{}", late.err);
    // The audit is shown.
    shop.execute(
        "saga-orchestrator",
        "update saga_event set kind = 'operated', body = \
         '{\"kind\":\"operated\",\"verb\":\"skip\",\"step\":null,\"by\":\"ada\",\"why\":\"fixed\"}' \
         where seq = 2",
    );
    let shown = shop.onceward(&["saga", "show", "order-1"]);
    assert!(
        shown.out.contains("OPERATION  STEP  BY   WHY"),
        "{}",
        shown.out
    );
    assert!(
        shown.out.contains("skip       -     ada  fixed"),
        "{}",
        shown.out
    );
}

#[test]
fn a_wish_about_a_saga_is_written_and_what_makes_no_sense_is_not() {
    for shop in [Shop::on_sqlite(), Shop::on_postgres()] {
        asks_for_a_saga(&shop.with_story());
    }
}

#[test]
fn a_wish_is_written_once_and_can_be_followed() {
    for shop in [Shop::on_sqlite(), Shop::on_postgres()] {
        let shop = shop.with_story();
        asks(&shop);
        asks_for_a_parked_key(&shop);
        asks_for_all_that_is_parked_in_a_topic(&shop);
    }
}

#[test]
fn waiting_ends_when_the_owner_is_done_or_the_time_is_up() {
    for shop in [Shop::on_sqlite(), Shop::on_postgres()] {
        waits(&shop.with_story());
    }
}
