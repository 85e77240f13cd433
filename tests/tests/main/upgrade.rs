//! Two versions of every program on one shop: `./dev check upgrade REV`.

use integration_tests::{Client, Database, Order, PATIENCE, Result, SERVICES, Settings, World};

/// Orders that are under way while programs are replaced.
#[derive(Default)]
struct Orders(Vec<String>);

impl Orders {
    async fn place(&mut self, client: &Client, count: usize) -> Result<()> {
        for _ in 0..count {
            self.0.push(client.order(&Order::default()).await?);
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the programs of another version: ./dev check upgrade REV"]
async fn a_shop_is_upgraded_one_program_after_the_other_and_taken_back_on_sqlite() -> Result<()> {
    upgraded_and_taken_back(Database::Sqlite).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the programs of another version: ./dev check upgrade REV"]
async fn a_shop_is_upgraded_one_program_after_the_other_and_taken_back_on_postgres() -> Result<()> {
    upgraded_and_taken_back(Database::Postgres).await
}

async fn upgraded_and_taken_back(database: Database) -> Result<()> {
    let settings = Settings {
        other_version: true,
        ..Settings::default()
    };
    let mut world = World::start(database, settings).await?;
    let client = world.client();
    let mut orders = Orders::default();
    orders.place(&client, 5).await?;
    // As OPERATIONS.md says: tables first, under the old programs; then consumers, then the relay.
    world.migrate()?;
    orders.place(&client, 5).await?;
    for other_version in [false, true] {
        for name in SERVICES.into_iter().chain(["relay"]) {
            world.replace(name, other_version).await?;
            orders.place(&client, 3).await?;
        }
    }
    for order in &orders.0 {
        client.wait_for(order, "completed", PATIENCE).await?;
    }
    let books = world.closed_books().await?;
    let placed = u64::try_from(orders.0.len())?;
    assert_eq!((books.completed, books.failed), (placed, 0));
    world.verify()
}
