//! Waiting until the shop is at rest and its books are closed.

use std::time::{Duration, Instant};

use anyhow::bail;
use auditor::shop::{Books, Shop, audit_shop};

use crate::{PATIENCE, Result, World};

impl World {
    /// Waits until every order has ended, and stock, money and deliveries add up; fails saying what
    /// does not.
    pub async fn closed_books(&self) -> Result<Books> {
        let shop = Shop {
            order: self.database("order").to_owned(),
            inventory: self.database("inventory").to_owned(),
            payment: self.database("payment").to_owned(),
            delivery: self.database("delivery").to_owned(),
            customer: self.database("customer").to_owned(),
            shipping: self.database("shipping").to_owned(),
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let books = audit_shop(&shop).await?;
            if books.closed() {
                return Ok(books);
            }
            if Instant::now() > deadline {
                bail!("not at rest after {PATIENCE:?}: {books:#?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
