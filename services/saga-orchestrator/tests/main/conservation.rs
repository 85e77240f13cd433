//! Whatever is refused, silent, repeated, reordered or rolled back: an order is done or undone as
//! a whole, and stock and money add up.

use onceward_saga::{SagaBackend, SagaStatus, TIMED_OUT};

use crate::world::{Ledger, Unkindness, World, on_both, settings};

/// What goes wrong at a step.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The participant says no.
    Refused,
    /// The participant is down until long after the deadline.
    Down,
    /// The participant does it, and nobody hears of it until long after the deadline.
    CutOff,
}

/// By the service that carries them out.
const STEPS: [&str; 4] = ["customer", "inventory", "payment", "delivery"];
/// More than there is of product_3.
const TOO_MANY: i64 = 100;

async fn compensates_from_every_step<B: SagaBackend>(world: World<B>) {
    compensates(world, &STEPS).await;
}

/// The inventory's own step, which a validated order does not come to where the inventory is away or short.
async fn compensates_from_the_first_step_without_validation<B: SagaBackend>(world: World<B>) {
    compensates(world, &["inventory"]).await;
}

async fn compensates<B: SagaBackend>(mut world: World<B>, steps: &[&'static str]) {
    let before = world.ledger().await;
    let validates = steps.contains(&"customer");
    for step in steps.iter().copied() {
        for fault in [Fault::Refused, Fault::Down, Fault::CutOff] {
            for copies in [1, 2] {
                for seed in 0..3 {
                    let crashes = seed == 0;
                    let unkindness = Unkindness {
                        copies,
                        crashes,
                        seed,
                    };
                    let case = format!("{step} {fault:?} {unkindness:?}");
                    world.is(unkindness);
                    one_fault(&mut world, step, fault, validates, &case).await;
                    assert_eq!(world.ledger().await, before, "{case}");
                }
            }
        }
    }
    println!("{} messages handled", world.delivered);
}

async fn one_fault<B: SagaBackend>(
    world: &mut World<B>,
    step: &'static str,
    fault: Fault,
    validates: bool,
    case: &str,
) {
    let (mut user, mut product, mut quantity) = ("user_123", "product_1", 2);
    let mut reason = TIMED_OUT;
    match fault {
        Fault::Refused => match step {
            "customer" => (user, reason) = (customer::WITHOUT_CREDIT, customer::EXCEEDED),
            "inventory" => {
                (product, quantity) = ("product_3", TOO_MANY);
                reason = inventory::INSUFFICIENT;
            }
            "payment" => (user, reason) = (payment::ALWAYS_REFUSED, payment::REFUSED),
            _ => (user, reason) = (delivery::ALWAYS_REFUSED, delivery::REFUSED),
        },
        Fault::Down => world.stop(step),
        Fault::CutOff => world.cut_off(step),
    }
    let order = world.order(user, product, quantity, 19_999);
    world.settle().await;
    if fault != Fault::Refused {
        assert_eq!(world.saga(order).await.0, SagaStatus::Running, "{case}");
        world.deadlines_pass().await;
        // All others undo their part without the silent one.
        world.settle().await;
        let waits_for_it = match world.saga(order).await.0 {
            SagaStatus::Compensating => true,
            SagaStatus::Compensated => false,
            other => panic!("{case}: {other}"),
        };
        // Only asked whether there was enough, it has nothing to undo.
        assert_eq!(waits_for_it, !(step == "inventory" && validates), "{case}");
        world.start(step);
        world.reconnect(step);
        world.settle().await;
    }
    let ended = (SagaStatus::Compensated, Some(reason.to_owned()));
    assert_eq!(world.saga(order).await, ended, "{case}");
    assert_eq!(world.last_word(order).await, "order.cancelled.v1", "{case}");
}

async fn orders_at_the_same_time_end_right_and_add_up<B: SagaBackend>(mut world: World<B>) {
    let before = world.ledger().await;
    let (mut sold, mut paid, mut deliveries) = (0, 0, 0);
    for seed in 0..3 {
        world.is(Unkindness {
            copies: 2,
            crashes: false,
            seed,
        });
        let mut orders = Vec::new();
        for n in 0..5_i64 {
            for (user, product, quantity, ends) in [
                ("user_123", "product_1", n + 1, "order.completed.v1"),
                ("user_123", "product_3", TOO_MANY, "order.cancelled.v1"),
                (
                    payment::ALWAYS_REFUSED,
                    "product_2",
                    1,
                    "order.cancelled.v1",
                ),
                (
                    delivery::ALWAYS_REFUSED,
                    "product_1",
                    3,
                    "order.cancelled.v1",
                ),
                ("user_123", "product_9", 1, "order.cancelled.v1"),
            ] {
                let amount = 100 * n + 1;
                if ends == "order.completed.v1" {
                    (sold, paid, deliveries) = (sold + quantity, paid + amount, deliveries + 1);
                }
                orders.push((world.order(user, product, quantity, amount), ends));
            }
        }
        world.settle().await;
        for (order, ends) in orders {
            assert_eq!(world.last_word(order).await, ends, "seed {seed}");
        }
        let expected = Ledger {
            stock: before.stock - sold,
            reserved: 0,
            sold,
            paid,
            deliveries,
            credit: 0,
            spent: paid,
            shipments: 0,
        };
        assert_eq!(world.ledger().await, expected, "seed {seed}");
    }
    println!("{} messages handled", world.delivered);
}

async fn the_last_pieces_are_not_sold_twice<B: SagaBackend>(mut world: World<B>) {
    let before = world.ledger().await;
    world.is(Unkindness {
        copies: 2,
        crashes: true,
        seed: 7,
    });
    // Of product_3 there are 50.
    let orders: Vec<_> = (0..8)
        .map(|_| world.order("user_123", "product_3", 9, 1))
        .collect();
    world.settle().await;
    let mut completed = 0;
    for order in orders {
        match world.saga(order).await {
            (SagaStatus::Completed, _) => completed += 1,
            (_, reason) => assert_eq!(reason.as_deref(), Some(inventory::INSUFFICIENT)),
        }
    }
    assert_eq!(completed, 5);
    let after = world.ledger().await;
    assert_eq!((after.stock, after.sold), (before.stock - 45, 45));
}

async fn a_saga_ends_by_the_version_it_began_with<B: SagaBackend>(mut world: World<B>) {
    let before = world.ledger().await;
    let place = |world: &mut World<B>| world.order("user_123", "product_1", 1, 100);
    let mut orders: Vec<_> = (0..6).map(|_| place(&mut world)).collect();
    // Begun all of them, ended none.
    world.settle_up_to(20).await;
    world.begin_by(&settings(60_000, true));
    orders.extend((0..6).map(|_| place(&mut world)));
    world.settle_up_to(40).await;
    world.begin_by(&settings(60_000, false));
    world.settle().await;
    for order in orders {
        assert_eq!(world.last_word(order).await, "order.completed.v1");
    }
    let after = world.ledger().await;
    assert_eq!((after.paid, after.sold), (1_200, 12));
    assert_eq!((after.stock, after.credit), (before.stock - 12, 0));
    // Some of them had their customer asked.
    assert!((100..=600).contains(&after.spent), "{after:?}");
}

on_both!(
    compensates_from_every_step, 20;
    compensates_from_the_first_step_without_validation, 20, false;
    orders_at_the_same_time_end_right_and_add_up, 60_000;
    the_last_pieces_are_not_sold_twice, 60_000;
    a_saga_ends_by_the_version_it_began_with, 60_000, false;
);
