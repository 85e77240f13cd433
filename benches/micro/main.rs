//! `./dev bench micro`: what single steps cost in this process, without Kafka: encoding, decoding, the
//! cursor's reading, the inbox. Criterion compares with the run before.

mod store;
mod wire;

use anyhow::Result;
use criterion::Criterion;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    wire::encode(&mut criterion);
    wire::decode(&mut criterion)?;
    wire::progress(&mut criterion)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    store::cursor(&mut criterion, &runtime)?;
    store::inbox(&mut criterion, &runtime)?;
    criterion.final_summary();
    Ok(())
}
