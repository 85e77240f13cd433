//! What it costs that published rows stay in the outbox for their retention time: it should be nothing.

use anyhow::Result;

use crate::cli::Options;
use crate::drain::{self, Drained};
use crate::live::{self, Load, Measured};
use crate::report::{Better, Report};
use crate::source::{Kind, Source};
use crate::stage::Stage;

/// Rows of one transaction while the rows that will be retained are written.
const ROWS_A_COMMIT: u32 = 1_000;
/// Rows a second of the live load.
const RATE: u32 = 1_000;

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    let most = options.retained();
    for kind in Kind::ALL {
        let case = |retained: u32| format!("{retained} published rows retained, {}", kind.label());
        if ![0, most]
            .iter()
            .any(|retained| options.wants(&case(*retained)))
        {
            continue;
        }
        let mut outbox = Outbox::empty(stage, kind).await?;
        let mut rate_of_none = None;
        for retained in [0, most] {
            let case = case(retained);
            report.begin_case(&case);
            if let Some(published) = outbox.retain(stage, retained).await? {
                // A backlog as large as that is one more test of the memory.
                report.add(
                    &case,
                    "peak RSS while they were published, MiB",
                    Better::Lower,
                    published.peak_mib,
                );
            }
            let drained = outbox.drain(stage, options.rows()).await?;
            drained.tell(report, &case);
            let none = *rate_of_none.get_or_insert(drained.rate());
            if retained > 0 {
                let share = 100.0 * drained.rate() / none;
                report.add(&case, "rows/s, % of with none", Better::Higher, share);
            }
            let live = outbox.live(stage, options.seconds()).await?;
            live.tell(report, &case);
        }
        outbox.drop_topic(stage).await?;
    }
    Ok(())
}

/// An outbox that keeps what was published.
pub(crate) struct Outbox {
    source: Source,
    retained: u32,
}

impl Outbox {
    pub(crate) async fn empty(stage: &mut Stage, kind: Kind) -> Result<Self> {
        Ok(Self {
            source: Source::make(stage, kind).await?,
            retained: 0,
        })
    }

    /// How many rows it keeps.
    pub(crate) fn retained(&self) -> u32 {
        self.retained
    }

    /// Fills it up to `rows` published rows at least, if there are fewer; by the relay, as everything
    /// that counts as published.
    pub(crate) async fn retain(&mut self, stage: &mut Stage, rows: u32) -> Result<Option<Drained>> {
        let missing = rows.saturating_sub(self.retained);
        if missing == 0 {
            return Ok(None);
        }
        self.source.fill_with(missing, ROWS_A_COMMIT).await?;
        self.clear(stage, missing).await.map(Some)
    }

    /// A backlog on top of what is retained.
    pub(crate) async fn drain(&mut self, stage: &mut Stage, rows: u32) -> Result<Drained> {
        self.source.fill(rows).await?;
        self.clear(stage, rows).await
    }

    /// A steady load on top of what is retained.
    pub(crate) async fn live(&mut self, stage: &mut Stage, seconds: u32) -> Result<Measured> {
        let load = Load::steady(RATE, seconds)?;
        let measured = live::measure(stage, &self.source, &load).await?;
        self.passed(stage, u32::try_from(load.rows())?).await?;
        Ok(measured)
    }

    async fn clear(&mut self, stage: &mut Stage, rows: u32) -> Result<Drained> {
        let drained = drain::drain(stage, &[&self.source], rows, &[]).await?;
        self.passed(stage, rows).await?;
        Ok(drained)
    }

    async fn passed(&mut self, stage: &mut Stage, rows: u32) -> Result<()> {
        self.retained += rows;
        self.source.move_on(stage, u64::from(rows)).await
    }

    pub(crate) async fn drop_topic(self, stage: &Stage) -> Result<()> {
        stage.delete_topic(&self.source.topic).await
    }
}
