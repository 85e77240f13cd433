//! The orders of a load: which ones, in which mix. The same seed gives the same orders.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

/// What an order is made to meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing in its way, but for payments that fail by chance.
    Good,
    /// More pieces than there are.
    Insufficient,
    /// A customer whose payments are always declined.
    Declined,
    /// A customer whose address does not exist.
    Undeliverable,
}

impl Kind {
    /// Whether such an order may end `completed`.
    pub fn may_complete(self) -> bool {
        self == Self::Good
    }
}

/// Kinds with their share in percent.
const SHARES: [(Kind, u32); 4] = [
    (Kind::Good, 80),
    (Kind::Insufficient, 8),
    (Kind::Declined, 6),
    (Kind::Undeliverable, 6),
];

/// The body of `POST /orders`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Body {
    user_id: String,
    product_id: &'static str,
    quantity: u32,
    amount: f64,
}

/// The order with this number. It depends on nothing else, so it does not matter who sends it when.
pub fn order(seed: u64, number: u64) -> (Kind, Body) {
    // Neighbouring numbers must not begin alike: multiplied by 2^64 / golden ratio.
    let mut random = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut point = random.random_range(0..100);
    let kind = SHARES.iter().find_map(|(kind, share)| {
        let hit = point < *share;
        point = point.saturating_sub(*share);
        hit.then_some(*kind)
    });
    let kind = kind.unwrap_or(Kind::Good);
    let cents: u32 = random.random_range(100..100_000);
    let mut body = Body {
        user_id: format!("user_{}", random.random_range(1..=1000)),
        // The one of which there are a million.
        product_id: "product_1",
        quantity: random.random_range(1..=3),
        amount: f64::from(cents) / 100.0,
    };
    match kind {
        Kind::Good => {}
        Kind::Insufficient => (body.product_id, body.quantity) = ("product_3", 100),
        Kind::Declined => body.user_id = "user_declined".to_owned(),
        Kind::Undeliverable => body.user_id = "user_undeliverable".to_owned(),
    }
    (kind, body)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Kind, SHARES, order};

    #[test]
    fn a_seed_gives_the_same_orders_in_the_promised_mix() {
        let mut counts = BTreeMap::<Kind, u32>::new();
        for number in 0..10_000 {
            let (kind, body) = order(7, number);
            assert_eq!((kind, &body), (order(7, number).0, &order(7, number).1));
            *counts.entry(kind).or_default() += 1;
        }
        for (kind, share) in SHARES {
            assert!(counts[&kind].abs_diff(share * 100) < 150, "{counts:?}");
        }
        let other = (0..100).filter(|number| order(8, *number) != order(7, *number));
        assert_eq!(other.count(), 100);
    }

    #[test]
    fn amounts_have_two_decimals() {
        for number in 0..1000 {
            let text = serde_json::to_value(order(1, number).1).unwrap()["amount"].to_string();
            let decimals = text
                .split_once('.')
                .map_or(0, |(_, decimals)| decimals.len());
            assert!(decimals <= 2, "{text}");
        }
    }
}
