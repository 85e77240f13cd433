//! Refusals by chance, so that a demo shows more than success.

use uuid::Uuid;

/// Refuses a share of all orders. Decided by a hash of seed and order id: redelivery and restarts
/// don't change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chance {
    /// What is refused; the same orders are not refused everywhere.
    pub of: &'static str,
    /// How many of 100, 0 to 100.
    pub percent: u8,
    /// Another seed refuses other orders.
    pub seed: u64,
}

impl Chance {
    /// Whether this order is refused: the same answer whenever it is asked.
    pub fn refuses(&self, order_id: Uuid) -> bool {
        let name = format!("{}/{}", self.of, self.seed);
        let hash = Uuid::new_v5(&order_id, name.as_bytes()).as_u128();
        let chance = hash & u128::from(u32::MAX);
        chance % 100 < u128::from(self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(of: &'static str, percent: u8, seed: u64) -> Vec<u128> {
        let chance = Chance { of, percent, seed };
        (0..10_000)
            .filter(|n| chance.refuses(Uuid::from_u128(*n)))
            .collect()
    }

    #[test]
    fn chance_refuses_its_share_and_always_the_same_orders() {
        let twenty = refused("payment", 20, 0);
        assert!((1_800..2_200).contains(&twenty.len()), "{}", twenty.len());
        assert_eq!(twenty, refused("payment", 20, 0));
        assert_ne!(twenty, refused("payment", 20, 1));
        assert_ne!(twenty, refused("delivery", 20, 0));
        assert_eq!(refused("payment", 0, 0), []);
        assert_eq!(refused("payment", 100, 0).len(), 10_000);
    }
}
