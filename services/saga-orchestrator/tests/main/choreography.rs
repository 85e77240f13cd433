//! Orders without a coordinator: whatever is refused, silent, repeated, reordered or rolled back, an order is
//! done or undone as a whole, and stock and money add up. Beside orchestrated ones, in the same services.

use contracts::routing::PRESETS;
use onceward_saga::{SagaBackend, TIMED_OUT};

use crate::world::{Ledger, Unkindness, World, on_both};

/// How the services of an order can work together.
const WAYS: [&str; 3] = ["orchestration", "payment-first", "pipeline"];

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Nothing,
    /// The customer's card is no good.
    Declined,
    /// Paid, and then there is too little of it.
    Short,
    /// Paid, reserved and shipped, and then nobody is at home.
    Undeliverable,
    /// The service is down until long after the deadline.
    Down(&'static str),
    /// The service reacts, and nobody hears of it until long after the deadline.
    CutOff(&'static str),
}

/// Each choreography with what can go wrong in it.
const FAULTS: [(&str, &[Fault]); 2] = [
    (
        "payment-first",
        &[
            Fault::Nothing,
            Fault::Declined,
            Fault::Short,
            Fault::Down("payment"),
            Fault::CutOff("payment"),
            Fault::Down("inventory"),
            Fault::CutOff("inventory"),
        ],
    ),
    (
        "pipeline",
        &[
            Fault::Nothing,
            Fault::Declined,
            Fault::Short,
            Fault::Undeliverable,
            Fault::Down("payment"),
            Fault::CutOff("payment"),
            Fault::Down("inventory"),
            Fault::CutOff("inventory"),
            Fault::Down("shipping"),
            Fault::CutOff("shipping"),
            Fault::Down("delivery"),
            Fault::CutOff("delivery"),
        ],
    ),
];

fn ended(status: &str, reason: Option<&str>) -> (String, Option<String>) {
    (status.to_owned(), reason.map(str::to_owned))
}

/// What two pieces at 199.99 do to the ledger.
fn sold_two(way: &str, before: &Ledger) -> Ledger {
    let sent = i64::from(way == "pipeline");
    Ledger {
        deliveries: before.deliveries + sent,
        shipments: before.shipments + sent,
        stock: before.stock - 2,
        sold: before.sold + 2,
        paid: before.paid + 19_999,
        ..before.clone()
    }
}

async fn a_choreographed_order_ends_right_whatever_goes_wrong<B: SagaBackend>(mut world: World<B>) {
    world.open_desk();
    for (way, faults) in FAULTS {
        for fault in faults {
            for (copies, seed) in [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)] {
                let unkindness = Unkindness {
                    copies,
                    crashes: seed == 0,
                    seed,
                };
                world.is(unkindness);
                let case = format!("{way} {fault:?} {unkindness:?}");
                one_order(&mut world, way, *fault, &case).await;
            }
        }
    }
    println!("{} messages handled", world.delivered);
}

async fn one_order<B: SagaBackend>(world: &mut World<B>, way: &str, fault: Fault, case: &str) {
    let before = world.ledger().await;
    let (user, product, quantity, end) = match fault {
        Fault::Nothing => ("user_123", "product_1", 2, ended("completed", None)),
        Fault::Declined => (
            payment::ALWAYS_REFUSED,
            "product_1",
            2,
            ended("failed", Some(payment::REFUSED)),
        ),
        Fault::Short => (
            "user_123",
            "product_3",
            100,
            ended("failed", Some(inventory::INSUFFICIENT)),
        ),
        Fault::Undeliverable => (
            delivery::ALWAYS_REFUSED,
            "product_1",
            2,
            ended("failed", Some(delivery::REFUSED)),
        ),
        Fault::Down(_) | Fault::CutOff(_) => {
            ("user_123", "product_1", 2, ended("failed", Some(TIMED_OUT)))
        }
    };
    match fault {
        Fault::Down(service) => world.stop(service),
        Fault::CutOff(service) => world.cut_off(service),
        _ => {}
    }
    let order = world.place(way, user, product, quantity).await;
    world.settle().await;
    if let Fault::Down(service) | Fault::CutOff(service) = fault {
        assert_eq!(world.shown(order).await, ended("pending", None), "{case}");
        world.orders_time_out().await;
        world.settle().await;
        let undoing = ended("cancelling", Some(TIMED_OUT));
        assert_eq!(world.shown(order).await, undoing, "{case}");
        world.start(service);
        world.reconnect(service);
        world.settle().await;
    }
    assert_eq!(world.shown(order).await, end, "{case}");
    let after = match fault {
        Fault::Nothing => sold_two(way, &before),
        _ => before,
    };
    assert_eq!(world.ledger().await, after, "{case}");
    one_story_with_one_end(world, order, case).await;
}

/// All that was said about the order is one story, each message but the first and the deadline's led to by
/// another, and it has one end.
async fn one_story_with_one_end<B: SagaBackend>(world: &World<B>, order: uuid::Uuid, case: &str) {
    let said = world.said(order).await;
    let ends = ["order.completed.v1", "order.cancelled.v1"];
    let end = said.iter().filter(|said| ends.contains(&&*said.event.1));
    assert_eq!(end.count(), 1, "{case}: {said:?}");
    let begun = ["order-created.v1", "pipeline.order_created.v1"];
    let timed_out = ["order-timed-out.v1", "pipeline.order_timed_out.v1"];
    for one in &said {
        assert_eq!(one.story, said[0].story, "{case}: {one:?}");
        assert!(one.is_traced, "{case}: {one:?}");
        let led_to = one
            .cause
            .is_some_and(|cause| said.iter().any(|other| other.event.0 == cause));
        let uncaused = begun
            .iter()
            .chain(&timed_out)
            .any(|said| *said == one.event.1);
        assert_ne!(led_to, uncaused, "{case}: {one:?}");
    }
    // Nothing is said twice in a choreography, and its desk hears all of it.
    let mut all: Vec<_> = said.into_iter().map(|said| said.event).collect();
    let mut shown = world.events(order).await;
    assert!(begun.contains(&&*shown[0].1), "{case}: {shown:?}");
    all.sort();
    shown.sort();
    assert_eq!(shown, all, "{case}");
}

async fn a_deadline_at_any_moment_undoes_all_or_nothing<B: SagaBackend>(mut world: World<B>) {
    world.open_desk();
    for (way, seeds) in [("payment-first", 4), ("pipeline", 2)] {
        undone_at_any_moment(&mut world, way, seeds).await;
    }
}

async fn undone_at_any_moment<B: SagaBackend>(world: &mut World<B>, way: &str, seeds: u64) {
    let (mut completed, mut failed) = (0, 0);
    for seed in 0..seeds {
        for moment in 0.. {
            world.is(Unkindness {
                copies: 2,
                crashes: false,
                seed,
            });
            let before = world.ledger().await;
            let order = world.place(way, "user_123", "product_1", 2).await;
            let all = world.settle_up_to(moment).await < moment;
            world.orders_time_out().await;
            world.settle().await;
            let case = format!("{way} after {moment} messages, seed {seed}");
            let after = match world.shown(order).await {
                (status, None) if status == "completed" => {
                    completed += 1;
                    sold_two(way, &before)
                }
                (status, Some(reason)) => {
                    assert_eq!((status.as_str(), reason.as_str()), ("failed", TIMED_OUT));
                    failed += 1;
                    before
                }
                other => panic!("{case}: {other:?}"),
            };
            assert_eq!(world.ledger().await, after, "{case}");
            one_story_with_one_end(world, order, &case).await;
            if all {
                break;
            }
        }
    }
    assert!(completed >= 8 && failed >= 8, "{completed}, {failed}");
}

async fn all_ways_at_once_add_up<B: SagaBackend>(mut world: World<B>) {
    world.open_desk();
    world.is(Unkindness {
        copies: 2,
        crashes: true,
        seed: 11,
    });
    let before = world.ledger().await;
    // Of product_3 there are 50: whoever comes too late gets nothing and pays nothing.
    let mut orders = Vec::new();
    for _ in 0..4 {
        for way in WAYS {
            orders.push(world.place(way, "user_123", "product_3", 9).await);
            let declined = payment::ALWAYS_REFUSED;
            world.place(way, declined, "product_3", 1).await;
        }
    }
    world.settle().await;
    let mut completed = 0;
    for order in orders {
        match world.shown(order).await {
            (status, None) if status == "completed" => completed += 1,
            other => assert_eq!(other, ended("failed", Some(inventory::INSUFFICIENT))),
        }
    }
    // Pieces that a declined order held for a moment may have been missed by another.
    assert!((4..=5).contains(&completed), "{completed}");
    let after = world.ledger().await;
    assert_eq!(after.stock, before.stock - 9 * completed);
    assert_eq!((after.reserved, after.sold), (0, 9 * completed));
    assert_eq!(after.paid, 19_999 * completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_preset_of_topics_carries_orders_to_their_end() {
    for (preset, _) in PRESETS {
        let routing = contracts::routing::read(preset).unwrap();
        let mut world = World::routed(crate::world::settings(60_000, true), routing).await;
        world.open_desk();
        for way in WAYS {
            let order = world.place(way, "user_123", "product_1", 2).await;
            world.settle().await;
            assert_eq!(world.shown(order).await, ended("completed", None));
            let said = world.said(order).await;
            let mut shown = world.events(order).await;
            let mut said: Vec<_> = said.into_iter().map(|said| said.event).collect();
            shown.sort();
            said.sort();
            assert_eq!(shown, said, "{preset}");
        }
    }
}

on_both!(
    a_choreographed_order_ends_right_whatever_goes_wrong, 20;
    a_deadline_at_any_moment_undoes_all_or_nothing, 1;
    all_ways_at_once_add_up, 60_000;
);
